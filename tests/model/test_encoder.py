"""The encoder's shapes, masks and messages; the folded tokenizer against a plain one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semantoks.data.atlas import Atlas
from semantoks.errors import ConfigurationError, InputError
from semantoks.model.encoder import SemantoksEncoder, network_mask
from semantoks.model.layers import Head, LongConvolution, patch_positions
from semantoks.model.tokenizer import NetworkTokenizer, SemanticTokenizer

ATLAS = Atlas.from_networks({"Vis": 5, "Cont": 3, "Default": 7})


def small(atlas: Atlas = ATLAS) -> SemantoksEncoder:
    torch.manual_seed(0)
    return SemantoksEncoder(atlas, dim=32, depth=2, head_dim=16)


def plain_token(tokenizer: NetworkTokenizer, patch: Tensor) -> Tensor:
    """Compute one token (METHOD.md) sample by sample, kernel by kernel."""
    rois, time = patch.shape
    convolution, mixed = tokenizer.branches
    pieces = [p.detach() for p in mixed.long.pieces]
    stretched = [pieces[0] * 4, pieces[1] * 2, pieces[2].repeat_interleave(2, -1)]
    kernel = torch.cat(stretched, -1) / mixed.long.norm
    long = torch.zeros(rois, kernel.shape[0], time)
    for roi in range(rois):
        for j in range(kernel.shape[0]):
            for t in range(time):
                for tap in range(16):
                    if 0 <= (at := t + 8 - tap) < time:
                        long[roi, j, t] += kernel[j, roi, tap] * patch[roi, at]
            long[roi, j] += mixed.long.gain[j, roi].detach() * patch[roi]
    structured = mixed.project(long.flatten(0, 1).T).T
    dense = F.conv1d(patch[None], convolution.weight, convolution.bias, padding=1)[0]
    return tokenizer.norm(F.gelu(torch.cat([dense, structured])).mean(-1))


@torch.no_grad()
@pytest.mark.parametrize("rois", [1, 3, 20])
def test_folded_tokenizer_equals_plain(rois: int) -> None:
    torch.manual_seed(rois)
    tokenizer = NetworkTokenizer(rois, 32)
    patches = torch.randn(2, rois, 20)
    expected = torch.stack([plain_token(tokenizer, patch) for patch in patches])
    torch.testing.assert_close(tokenizer(patches), expected, rtol=0, atol=1e-5)


def test_long_convolution_is_the_folded_kernel() -> None:
    torch.manual_seed(0)
    long = LongConvolution(4, 3)
    x = torch.randn(2, 4, 20)
    assert long(x).shape == (2, 12, 20)
    impulse = torch.zeros(1, 4, 20)
    impulse[0, 2, 10] = 1
    response = long(impulse)[0].view(4, 3, 20)
    assert response[[0, 1, 3]].abs().max() == 0  # depthwise: other ROIs hear nothing
    expected = long.weight()[:, 2].flip(-1)
    torch.testing.assert_close(response[2, :, 2:18], expected)


def test_norm_of_kernels_stays_that_of_initialisation() -> None:
    long = LongConvolution(4, 3)
    before = long.norm.clone()
    with torch.no_grad():
        for piece in long.pieces:
            piece.mul_(3)
    torch.testing.assert_close(long.norm, before)
    assert "norm" in dict(long.named_buffers())
    assert "norm" not in dict(long.named_parameters())


def test_order_of_rois_in_the_atlas_does_not_matter() -> None:
    mixed = np.random.default_rng(0).permutation(len(ATLAS))
    # Networks keep their order of first appearance, so the lattice stays comparable.
    mixed = np.concatenate([[0, 5, 8], [i for i in mixed if i not in (0, 5, 8)]])
    table = ATLAS.to_table().iloc[mixed]
    other = Atlas.from_table(table, name="mixed")
    assert other.network_names == ATLAS.network_names
    encoder, shuffled = small(), small(other)
    shuffled.load_state_dict(encoder.state_dict())
    for network in range(3):  # give the shuffled tokenizers the ROIs in their own order
        own = ATLAS.network_indices[network]
        theirs = mixed[other.network_indices[network]]
        place = torch.as_tensor([list(own).index(i) for i in theirs])
        source, target = (e.tokenizer.networks[network] for e in (encoder, shuffled))
        (dense, long), (own_dense, own_long) = target.branches, source.branches
        with torch.no_grad():
            dense.weight.copy_(own_dense.weight[:, place])
            for a, b in zip(long.long.pieces, own_long.long.pieces, strict=True):
                a.copy_(b[:, place])
            long.long.gain.copy_(own_long.long.gain[:, place])
            long.long.norm.copy_(own_long.long.norm[:, place])
            kernels = own_long.long.gain.shape[0]
            weight = own_long.project.weight.view(-1, len(own), kernels)[:, place]
            long.project.weight.copy_(weight.flatten(1))
    series = torch.randn(2, len(ATLAS), 40)
    with torch.no_grad():
        expected = encoder(series)
        found = shuffled(series[:, mixed])
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=1e-5)


@pytest.mark.parametrize("patches", [1, 5, 8])
def test_any_number_of_patches(patches: int) -> None:
    encoding = small()(torch.randn(2, 15, 20 * patches))
    assert encoding.summary.shape == (2, 32)
    assert encoding.tokens.shape == (2, 3, patches, 32)


@torch.no_grad()
def test_masked_tokens_hide_their_input() -> None:
    encoder, series = small(), torch.randn(1, 15, 40)
    mask = torch.zeros(1, 3, 2, dtype=torch.bool)
    mask[0, 1, 0] = True
    other = series.clone()
    other[0, 5:8, :20] = torch.randn(3, 20)  # what the second network does in the first patch
    torch.testing.assert_close(encoder(series, mask), encoder(other, mask))
    assert not torch.allclose(encoder(series).summary, encoder(other).summary)


def test_patches_are_read_on_their_own() -> None:
    tokenizer = SemanticTokenizer(ATLAS, 32, 20)
    series = torch.randn(1, 15, 40)
    both = tokenizer(series)
    torch.testing.assert_close(both[:, :, 1:], tokenizer(series[:, :, 20:].contiguous()))


def test_patch_positions_are_sines_then_cosines() -> None:
    positions = patch_positions(5, 8)
    for k in range(4):
        angle = 3 * 10000 ** (-k / 4)
        assert positions[3, k].item() == pytest.approx(np.sin(angle), abs=1e-6)
        assert positions[3, 4 + k].item() == pytest.approx(np.cos(angle), abs=1e-6)


@pytest.mark.parametrize(("hidden", "linear"), [(0, 1), (1, 2), (2, 3)])
def test_head_depth_and_unit_length(hidden: int, linear: int) -> None:
    head = Head(16, hidden_dim=8, output_dim=4, hidden_layers=hidden)
    assert sum(isinstance(m, torch.nn.Linear) for m in head.modules()) == linear
    torch.testing.assert_close(head(torch.randn(5, 3, 16)).norm(dim=-1), torch.ones(5, 3))


def test_size_of_the_paper() -> None:
    encoder, head = SemantoksEncoder(Atlas.load("schaefer400-tian3-buckner7")), Head(768)
    trainable = sum(p.numel() for p in encoder.parameters())
    # Released: 62.75 M with 4.03 M dead; fixed positions and stored norms are buffers here.
    assert trainable == pytest.approx(58.7e6, rel=0.005)
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(0.92e6, rel=0.005)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, 14, 40), "15 ROIs"), ((15, 40), "shape"), ((2, 15, 30), "whole patches of 20")],
)
def test_wrong_series(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        small()(torch.zeros(shape))


def test_wrong_mask() -> None:
    with pytest.raises(InputError, match="boolean of shape"):
        small()(torch.zeros(2, 15, 40), torch.zeros(2, 3, 2))
    with pytest.raises(InputError, match=r"\(2, 3, 2\)"):
        small()(torch.zeros(2, 15, 40), torch.zeros(2, 2, 3, dtype=torch.bool))


def test_wrong_sizes() -> None:
    with pytest.raises(ConfigurationError, match="multiple of head_dim = 64"):
        SemantoksEncoder(ATLAS, dim=100)
    with pytest.raises(ConfigurationError, match="multiple of patch = 20"):
        SemantoksEncoder(ATLAS, dim=64, window=110)


def test_network_mask_marks_what_is_missing() -> None:
    assert network_mask(np.ones((2, 3), dtype=bool), 5) is None
    mask = network_mask(np.array([[True, False, True]]), 2)
    assert mask is not None
    assert mask.tolist() == [[[False, False], [True, True], [False, False]]]


# Alternatives to the reference


@pytest.mark.parametrize(
    ("arguments", "networks"),
    [
        ({"tokenization": "linear"}, 3),
        ({"spatial": "maximal", "tokenization": "linear"}, 15),
        ({"spatial": "minimal"}, 1),
        ({"spatial": "minimal", "tokenization": "linear"}, 1),
        ({"pooling": "max"}, 3),
        ({"pooling": "attention"}, 3),
        ({"branches": [{"kind": "dense", "kernel_size": 7}]}, 3),
    ],
)
def test_alternatives_train(arguments: dict[str, Any], networks: int) -> None:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(ATLAS, dim=32, depth=1, head_dim=16, **arguments)
    summary, tokens = encoder(torch.randn(2, 15, 40), torch.rand(2, networks, 2) < 0.3)
    assert tokens.shape == (2, networks, 2, 32)
    (summary.square().sum() + tokens[:, :, 0, 0].sum()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_maximal_is_one_projection_for_all() -> None:
    encoder = SemantoksEncoder(
        ATLAS, dim=32, depth=0, head_dim=16, spatial="maximal", tokenization="linear"
    )
    series = torch.randn(1, 15, 40)
    project = encoder.tokenizer.project
    expected = project.weight @ series[0, 7, 20:] + project.bias
    torch.testing.assert_close(encoder.tokenizer(series)[0, 7, 1], expected)
    assert encoder.token_atlas.network_names == ATLAS.labels


@torch.no_grad()
def test_minimal_reads_all_rois_at_once() -> None:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(ATLAS, dim=32, depth=0, head_dim=16, spatial="minimal")
    series = torch.randn(1, 15, 20)
    expected = plain_token(encoder.tokenizer.networks[0], series[0])
    torch.testing.assert_close(encoder.tokenizer(series)[0, 0, 0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_linear_tokenizer_reads_its_network_only() -> None:
    tokenizer = SemanticTokenizer(ATLAS, 32, 20, tokenization="linear")
    series = torch.randn(1, 15, 40)
    cont = tokenizer.networks[1].project
    expected = cont.weight @ series[0, 5:8, 20:].flatten() + cont.bias
    torch.testing.assert_close(tokenizer(series)[0, 1, 1], expected)


@torch.no_grad()
def test_pooling() -> None:
    torch.manual_seed(0)
    patches = torch.randn(2, 5, 20)
    read = {p: NetworkTokenizer(5, 32, pooling=p) for p in ("mean", "max", "attention")}
    for tokenizer in read.values():
        tokenizer.load_state_dict(read["mean"].state_dict(), strict=False)
    branches = torch.cat([branch(patches) for branch in read["mean"].branches], 1)
    largest = F.layer_norm(F.gelu(branches).amax(-1), (32,))
    torch.testing.assert_close(read["max"](patches), largest)
    torch.testing.assert_close(read["attention"](patches), read["mean"](patches))
    read["attention"].attention.weight[3] = 1e5  # now the sample in which this one is largest
    sample = F.gelu(branches)[0, :, int(F.gelu(branches)[0, 3].argmax())]
    torch.testing.assert_close(read["attention"](patches)[0], F.layer_norm(sample, (32,)))


def test_decay_from_the_first_roi_to_the_last() -> None:
    long = LongConvolution(3, 1, pieces=2, decay=(1.0, 3.0))
    with torch.no_grad():
        for piece in long.pieces:
            piece.fill_(1)
        long.norm.fill_(1)
        long.gain.zero_()
    first, second = long.weight()[0].flip(-1).split(4, dim=-1)
    assert first[:, 0].tolist() == [1, 2, 3]
    assert second[:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spatial": "maximal"}, "set tokenization = linear"),
        ({"tokenization": "linear", "pooling": "max"}, "neither pooling nor branches"),
        ({"branches": [{"kind": "dense", "width": 31}]}, "cannot fill a token of dim = 32"),
        ({"branches": []}, "widths: none"),
        ({"branches": [{"kind": "dense", "kernel_size": 4}]}, "odd number of taps"),
        ({"branches": [{"kind": "dense", "kernel": 3}]}, "Did you mean 'kernel_size'"),
        ({"branches": [{"kind": "wide"}]}, "must be dense or long"),
        ({"branches": [{"kind": "long", "pieces": 0}]}, "must be positive"),
    ],
)
def test_alternatives_that_do_not_fit(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SemantoksEncoder(ATLAS, dim=32, depth=0, head_dim=16, **arguments)


def test_network_valid_is_of_the_tokens() -> None:
    valid = np.ones((2, 15), dtype=bool)
    valid[1, 5:8] = False
    assert small().network_valid(valid).tolist() == [[True, True, True], [True, False, True]]
    whole = SemantoksEncoder(ATLAS, dim=32, depth=0, head_dim=16, spatial="minimal")
    assert whole.network_valid(valid).tolist() == [[True], [True]]
