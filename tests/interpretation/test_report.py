"""The page: whole, self-contained, honest about what is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from semantoks.errors import InputError
from semantoks.evaluation.embedding import Embeddings
from semantoks.interpretation import knowledge
from semantoks.interpretation.knowledge import choose_phenotypes, map_section
from semantoks.interpretation.page import Section, Table, render_page
from semantoks.interpretation.report import health_section, training_section, write_report
from semantoks.interpretation.run_folder import embed_command, probe_command, read_run

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects what the page refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.loads = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href"):
                self.links.append(value)
            if name in ("src", "srcset", "data", "action", "poster"):
                self.loads.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def scored_run(make_run, scores):
    return make_run(scores=scores)


@pytest.fixture(scope="module")
def page_text(whole_run):
    """The page of a whole run, written once."""
    path = write_report(whole_run)
    assert path == whole_run / "report.html"
    return path.read_text("utf-8")


def test_page_needs_nothing_from_outside_and_its_links_lead_somewhere(page_text):
    page = Page(page_text)
    assert len(page.ids) == len(set(page.ids))
    inside = [link for link in page.links if not link.startswith("data:image/png;base64,")]
    assert all(link.startswith("#") and link[1:] in page.ids for link in inside)
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", page_text)
    assert page.tags.count("h2") == 8
    assert page.tags.count("figure") >= 8
    assert page.tags.count("figcaption") == page.tags.count("figure")


def test_main_result_is_said_plainly(page_text):
    assert "features: below connectivity in 1 of 1 comparisons" in page_text
    assert "diagnosis split by subject (−0.100 [−0.150, −0.050])" in page_text
    assert "Training finished." in page_text
    assert "24 scans of 18 subjects" in page_text
    assert "3 epochs, 200 steps, 13 min, on cpu" in page_text


def test_names_from_outside_are_escaped(page_text):
    assert "bad&lt;1&gt;" in page_text
    assert "note: &lt;b&gt;bold&lt;/b&gt;" in page_text
    assert "<b>" not in page_text
    assert "<A>" not in page_text


def commands_in(text, verb):
    """Return the commands of a verb, each on one line."""
    found = re.findall(rf"semantoks {verb} (?:[^\n]*\\\n)*[^\n]*", text)
    return [" ".join(command.replace("\\\n", " ").split()) for command in found]


def test_commands_of_the_page_are_whole(page_text):
    for verb in ("pretrain", "embed", "probe"):
        (command,) = commands_in(page_text, verb)
        assert "--out " in command
        assert "--data " in command


def write_settings(probe, **changes):
    """Write settings.json as `semantoks probe` does."""
    settings = {
        "target": "diagnosis", "kind": "classification", "splits": "subject", "site_column": None,
        "n_folds": 4, "n_repeats": 3, "seed": 7, "classifier": "logistic", "transductive": [],
        "methods": {"connectivity": {"n_features": 66}, "dummy": {"n_features": 0}},
    }  # fmt: skip
    (probe / "settings.json").write_text(json.dumps({**settings, **changes}))


def test_commands_are_those_that_were_run(make_run, scores):
    both = pd.concat([scores[:1].assign(method="embeddings"), scores[:1].assign(method="fresh")])
    run = make_run(scores=pd.concat([both, scores[1:]]))
    methods = {
        "embeddings": {"provenance": {"model_folder": "my run", "windows": 3}},
        "fresh": {"provenance": {"model_folder": "my run", "windows": 3, "fresh_weights_seed": 5}},
    }
    write_settings(run / "probe", methods=methods)
    shutil.copytree(run / "probe", run / "probe-site")
    changes = {"splits": "site", "site_column": "centre", "n_repeats": 1, "classifier": "ridge"}
    write_settings(run / "probe-site", methods=methods, **changes)
    contents = read_run(run)
    data = f"--data {contents.store.path}"
    features = f"--embeddings {run}/embeddings.parquet --embeddings {run}/fresh.parquet"
    assert commands_in(embed_command(contents), "embed") == [
        # the file in the run tells of itself
        f"semantoks embed {data} --model {run} --windows 8 --out {run}/embeddings.parquet",
        f"semantoks embed {data} --model 'my run' --windows 3 --untrained --seed 5 "
        f"--out {run}/fresh.parquet",
    ]
    assert commands_in(probe_command(contents), "probe") == [
        f"semantoks probe {data} {features} --target diagnosis --kind classification --splits "
        f"subject --folds 4 --repeats 3 --classifier logistic --seed 7 --out {run}/probe",
        f"semantoks probe {data} {features} --target diagnosis --kind classification --splits "
        f"site --site-column centre --classifier ridge --seed 7 --out {run}/probe-site",
    ]


def test_scores_of_scans_that_pretraining_saw_are_called_so(make_run, scores):
    run = make_run(scores=scores)
    write_settings(run / "probe", transductive=["features"], n_repeats=1)
    text = write_report(run).read_text("utf-8")
    assert "features: pretraining saw these scans, without labels." in text
    assert "probe: the subjects were divided only once." in text
    write_settings(run / "probe")
    text = write_report(run).read_text("utf-8")
    assert "pretraining saw these scans" not in text
    assert "divided only once" not in text


def test_two_probes_of_one_target_are_both_shown(scored_run, scores):
    other = scored_run / "probe-logistic"
    other.mkdir()
    moved = scores.assign(value=scores["value"] + 0.01)
    moved.to_csv(other / "scores.csv", index=False)
    text = write_report(scored_run).read_text("utf-8")
    for name, value in {"probe": "0.600 [0.550, 0.650]", "probe-logistic": "0.610"}.items():
        assert f"<td>subject, {name}</td>" in text
        assert f"diagnosis split by subject, {name} (" in text
        assert value in text
    assert "features: below connectivity in 2 of 2 comparisons" in text


def test_untrained_run_names_what_is_missing_and_what_makes_it(make_run):
    run = make_run(n_steps=0, with_embeddings=False, status="interrupted")
    shutil.rmtree(run / "model")
    (run / "config.yaml").unlink()
    text = write_report(run).read_text("utf-8")
    for command in ("pretrain", "embed", "probe"):
        assert f"<pre>semantoks {command} " in text
    assert "was not trained yet on 24 scans" in text
    assert "Training was interrupted" in text
    assert Page(text).tags.count("h2") == 8


def test_empty_logs_and_one_step_are_enough(make_run):
    run = make_run(n_steps=1)
    (run / "health.csv").write_text("")
    contents = read_run(run)
    (absent,) = health_section(contents).blocks
    assert "The encoder was never examined" in absent.reason
    assert training_section(contents).blocks[0].kind == "picture"


def test_collapse_is_named(make_run):
    run = make_run(n_steps=40)
    health = pd.read_csv(run / "health.csv").assign(token_cosine=0.97)
    health.to_csv(run / "health.csv", index=False)
    text = health_section(read_run(run)).blocks[0].text
    assert "means partial collapse" in text
    assert "(by chance 1.6%)" in text
    older = health.drop(columns=["identification", "identification_chance"])
    older.to_csv(run / "health.csv", index=False)
    words, picture = health_section(read_run(run)).blocks
    assert "by chance" not in words.text
    assert "nearest" not in str(picture)


def test_out_and_named_inputs(scored_run, tmp_path):
    shutil.move(scored_run / "probe", tmp_path / "other")
    shutil.move(scored_run / "embeddings.parquet", tmp_path / "features.parquet")
    out = tmp_path / "page.html"
    found = write_report(
        scored_run,
        embeddings=tmp_path / "features.parquet",
        comparisons=[tmp_path / "other"],
        out=out,
        phenotypes=["age", "sex"],
    )
    text = out.read_text("utf-8")
    assert found == out
    assert not (scored_run / "report.html").exists()
    assert "features: below connectivity" in text
    assert "coloured by age and by site" in text
    assert "coloured by sex and by site" in text
    assert "features.parquet by PCA" in text


def captions_of(run, *phenotypes):
    contents = read_run(run)
    blocks = map_section(contents, choose_phenotypes(contents, phenotypes)).blocks[1:]
    return [block.caption for block in blocks]


def test_maps_show_the_targets_otherwise_the_first_categories(scored_run, scores):
    scores.assign(target="sex").to_csv(scored_run / "probe" / "scores.csv", index=False)
    (caption,) = captions_of(scored_run)
    assert "coloured by sex and by site" in caption
    shutil.rmtree(scored_run / "probe")
    (caption,) = captions_of(scored_run)
    assert "coloured by diagnosis and by site" in caption


def test_phenotype_that_is_never_known_is_named_instead_of_drawn(scored_run):
    blocks = map_section(read_run(scored_run), ["iq"]).blocks
    assert [block.kind for block in blocks] == ["words", "words"]
    assert "iq is not known of any scan" in blocks[1].text


def test_large_cohorts_are_drawn_by_lot_and_strangers_counted(scored_run, monkeypatch):
    monkeypatch.setattr(knowledge, "MOST_POINTS", 10)
    assert "10 of 24 scans, drawn by lot" in captions_of(scored_run)[0]
    monkeypatch.undo()
    file = scored_run / "embeddings.parquet"
    frame = pd.read_parquet(file)
    frame.loc[0, "scan"] = "a stranger"
    frame.to_parquet(file)
    file.with_name(f"{file.name}.json").unlink()  # or it would be taken for damaged
    assert "1 scans are not in the store" in captions_of(scored_run)[0]


def test_cohort_without_sites_is_still_drawn(scored_run):
    contents = read_run(scored_run)
    contents.store.__dict__["scans"] = contents.store.scans.assign(site="")
    caption = map_section(contents, ["diagnosis"]).blocks[1].caption
    assert "coloured by diagnosis; counts" in caption
    assert "No site is known" in caption


def test_two_scans_are_too_few_for_a_map(scored_run):
    contents = read_run(scored_run)
    few = Embeddings(contents.embeddings[0][1].frame.head(2))
    blocks = knowledge._maps(contents.store.scans, scored_run / "x", few, ["age"], "map")
    assert "too few for a map" in blocks[0].text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "is not a run: it does not exist"),
        (lambda run: (run / "run.json").unlink(), "has no run.json"),
        (lambda run: (run / "run.json").write_text("{"), "run.json cannot be read"),
        (lambda run: (run / "run.json").write_text("[]"), "must hold a JSON object"),
        (lambda run: (run / "run.json").write_text("{}"), "which store was trained on"),
        (lambda run: (run / "metrics.csv").write_text("a,b\n1,2\n"), "no column step"),
        (
            lambda run: (run / "probe" / "scores.csv").write_text("method,value\na,1\n"),
            "lack the column.*target, split",
        ),
        (lambda run: (run / "probe" / "scores.csv").write_text(""), "scores.csv cannot be read"),
        (lambda run: (run / "probe" / "settings.json").write_text("{"), "settings.json cannot be"),
        (lambda run: (run / "probe" / "settings.json").write_text("1"), "must hold a JSON object"),
    ],
)
def test_what_cannot_be_used_is_named(scored_run, spoil, message):
    spoil(scored_run)
    with pytest.raises(InputError, match=message):
        write_report(scored_run)
    assert not (scored_run / "report.html").exists()


def test_store_that_moved_or_changed_is_named_and_can_be_given(scored_run, small_store, tmp_path):
    record = json.loads((scored_run / "run.json").read_text())
    moved = {**record, "store": {**record["store"], "path": str(tmp_path / "gone")}}
    (scored_run / "run.json").write_text(json.dumps(moved))
    with pytest.raises(InputError, match=r"no longer there.*--store"):
        read_run(scored_run)
    assert read_run(scored_run, store=small_store.path).store.path == small_store.path
    changed = {**record, "store": {**record["store"], "fingerprint": "0" * 16}}
    (scored_run / "run.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="is not the one on which"):
        read_run(scored_run)


def test_wrong_names_are_named(scored_run, tmp_path):
    with pytest.raises(InputError, match=r"no phenotype 'diagnosys'.*Did you mean 'diagnosis'"):
        write_report(scored_run, phenotypes=["diagnosys"])
    with pytest.raises(InputError, match=r"has no scores\.csv"):
        write_report(scored_run, comparisons=[tmp_path])
    with pytest.raises(InputError, match=r"missing\.parquet"):
        write_report(scored_run, embeddings=tmp_path / "missing.parquet")
    with pytest.raises(InputError, match="make its folder first"):
        write_report(scored_run, out=tmp_path / "no" / "folder.html")
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        write_report(scored_run, out=tmp_path)
    assert not (scored_run / "report.html").exists()


def test_the_same_scores_in_two_folders_count_once(scored_run):
    shutil.copytree(scored_run / "probe", scored_run / "probe-again")
    contents = read_run(scored_run)
    assert len(contents.comparisons) == 1
    assert len(contents.scores) == 3


def test_columns_of_numbers_stand_to_the_right_and_others_to_the_left():
    rows = [["a", "−0.1 [−0.2, 0.0]", "3"], ["b", "–", "3.1+cpu"]]
    page = render_page("t", "s", [Section("one", "One", [Table(["x", "y", "z"], rows, "numbers")])])
    assert '<td>a</td><td class="number">−0.1 [−0.2, 0.0]</td><td>3</td>' in page
    assert '<th scope="col">z</th>' in page
    assert Table(["x"], [], "nothing").numeric == [False]
