# The sections of docs/results.md and docs/what-was-tried.md, a target each. In a folder of its own:
#
#     make -f PATH/benchmarks/results.mk abide
#
# It needs semantoks on the PATH. What is there already is not made again, and what was interrupted
# goes on. Put in yourself: ABIDE_pcp, the folder that the Preprocessed Connectomes Project's files
# are downloaded to (C-PAC, nofilt_noglobal, rois_cc200); abide1_subjects.csv, its phenotypes (see
# docs/formats.md for the columns); qtab, a folder of arrays of QTAB's film with participants.tsv, and
# shen293_networks.tsv, its atlas; stages_schaefer400_7n_order_tr2.h5 with sofas_change_scores.txt
# and bprs_change_scores.txt of STAGES.

HERE := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
PYTHON ?= python
TABLE := $(PYTHON) $(HERE)scores_table.py
SEARCH := $(PYTHON) $(HERE)abide_search.py abide.store search
# One recording stands under two names, twice.
TWICE := KKI_0050805 KKI_0050808 Yale_0050578 Yale_0050602
ONCE := $(TWICE:%=--leave-out %)
BOTH := --metric balanced_accuracy --metric r2
COURSES := --recipe paper --set precision=bf16 --set model.depth=2 \
    --set model.projection_hidden_dim=512 --set optimization.batch_size=64 \
    --set optimization.warmup_epochs=2 --set optimization.learning_rate=4e-3 \
    --set optimization.teacher_momentum=0.95 --set model.time_courses=16 \
    --set model.time_course_span=window --set model.time_course_start=principal
REFERENCE := --recipe paper --set model.dim=192 --set model.depth=4

# A run that was interrupted goes on with the recipe of its own.
pretrain = semantoks pretrain --data $(1) --out $(2) $(if $(wildcard $(2)/config.yaml),--resume,$(3))
study = cp $(HERE)plans/$(1).yaml . && semantoks evaluate $(1).yaml --out $(2)

.PHONY: help abide components explanation peers probes finetuning transduction audit ablation identification symptoms search

help:
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 18

abide: | abide-run/model abide-time-courses/model
abide: | abide-time-courses-start/model abide-time-courses-longer/model
abide:  ## all targets, both ways of splitting
	$(call study,abide,study)
	$(TABLE) study $(BOTH) \
	    --against 'pretrained mean+cls, ridge=untrained mean+cls, ridge' \
	    --against 'pretrained networks, ridge=untrained networks, ridge' \
	    --against 'time-courses mean+cls, ridge=time-courses-start mean+cls, ridge' \
	    --against 'time-courses networks+log-synchrony, ridge=time-courses-start networks+log-synchrony, ridge' \
	    --against 'time-courses-longer mean+cls, ridge=time-courses mean+cls, ridge' \
	    --against 'time-courses-longer mean+cls, ridge=time-courses-start mean+cls, ridge'

COMPONENTS := study-abide-components study-qtab-components
WITHIN := --metric auc_within_site --metric pearson_r_within_site
components: | abide-floor/model qtab-floor/model stages-floor.parquet
components:  ## the closed form that a short description has to beat
	$(foreach name,$(COMPONENTS:study-%=%),$(call study,$(name),study-$(name)) &&) true
	$(TABLE) $(COMPONENTS) $(BOTH) --metric auc $(WITHIN)
	test -e reliability-components || semantoks reliability --data stages.store \
	    --embeddings stages-floor.parquet --out reliability-components

explain = test -e $(1) || semantoks explain --data abide.store --model abide-floor --target $(2) \
    --deletions 1 --permutations 50 $(ONCE) --out $(1)
explanation: | abide-floor/model abide-tiny/model  ## which networks, with and without motion and site
	$(call explain,explanation-diagnosis,diagnosis)
	$(call explain,explanation-diagnosis-moved,diagnosis --confound motion --confound site)
	$(call explain,explanation-age,age)
	test -e explanation-sex || semantoks explain --data abide.store --model abide-tiny --target sex \
	    --features networks --windows 4 --gradients 200 --deletions 1 --no-untrained $(ONCE) \
	    --out explanation-sex

peers: | abide.store  ## BNT and BolT, trained on ABIDE
	$(call study,abide-peers,study-peers)
	$(TABLE) study-peers --metric balanced_accuracy --metric auc $(WITHIN)

probes: | abide.store abide-run/model  ## the paper's linear probe, the attention probe
	$(call study,abide-probes,study-probes)
	$(TABLE) study-probes $(BOTH)

finetuning: | abide.store abide-run/model  ## fine-tuning, from pretrained and from fresh weights
	$(call study,abide-finetuning,study-finetuning)
	$(TABLE) study-finetuning $(BOTH)
	$(call study,abide-finetuning-site,study-finetuning-site)
	$(TABLE) study-finetuning-site $(BOTH)
	$(call study,abide-finetuning-untrained,study-finetuning-untrained)
	$(TABLE) study-finetuning-untrained $(BOTH) \
	    --against 'pretrained, finetune=untrained, finetune'
	$(call study,abide-finetuning-paper,study-finetuning-paper)
	$(TABLE) study-finetuning-paper $(BOTH)

transduction: | split0.csv abide-run/model abide-run-training/model  ## with and without the test scans
	$(call study,abide-transduction,study-transduction)
	$(TABLE) study-transduction $(BOTH) \
	    --against 'all-people mean+cls, ridge=training-people mean+cls, ridge' \
	    --against 'all-people networks, ridge=training-people networks, ridge'

audit: | abide-features.parquet abide-networks.parquet  ## what the features tell beside the target
	test -e audit || semantoks audit --data abide.store $(|:%=--embeddings %) --target diagnosis \
	    --model abide-run $(ONCE) --out audit

ablation: | abide.store demo/store  ## ablation and scaling, on ABIDE and simulated
	semantoks ablate --data abide.store --recipe tiny --set optimization.epochs=12 \
	    --target diagnosis --target age --repeats 2 $(ONCE) --out ablation
	semantoks scale --data abide.store --recipe tiny --set optimization.epochs=12 \
	    --target diagnosis --target age --repeats 2 $(ONCE) --out scaling
	semantoks ablate --data demo/store --recipe tiny --target diagnosis --repeats 2 \
	    --out ablation-demo
	semantoks scale --data demo/store --recipe tiny --set optimization.batch_size=8 \
	    --target diagnosis --repeats 2 --out scaling-demo

identification: | $(foreach kind,features untrained networks untrained-networks,stages-$(kind).parquet)
identification:  ## STAGES: is it the same person?
	test -e reliability || semantoks reliability --data stages.store $(|:%=--embeddings %) --model stages-run \
	    --features networks --out reliability

symptoms: | $(foreach kind,features untrained networks untrained-networks,stages-$(kind).parquet)
symptoms:  ## STAGES: change of symptoms
	for target in sofas bprs session; do \
	    test -e stages-$$target || semantoks probe --data stages.store $(|:%=--embeddings %) --target $$target \
	        --out stages-$$target || exit 1; \
	done

search: | abide.store unfiltered.store  ## what was tried: score on validation parts, then test what was chosen
	$(SEARCH) --leave-out $(TWICE)
	$(SEARCH) --leave-out $(TWICE) --test
	$(PYTHON) $(HERE)abide_search.py unfiltered.store search-unfiltered --leave-out $(TWICE) \
	    --models w8 w16-always-masked-long --features mean+cls

# What a store was made of may be gone once it is there.
needed = $(if $(wildcard $(1)),,$(2))

abide.store: | $(call needed,abide.store,ABIDE_pcp abide1_subjects.csv)
	semantoks prepare ABIDE_pcp --atlas cc200 --table abide1_subjects.csv --out $@

unfiltered.store: | $(call needed,unfiltered.store,ABIDE_pcp abide1_subjects.csv)
	semantoks prepare ABIDE_pcp --atlas cc200 --no-filter --table abide1_subjects.csv --out $@

abide-tiny/model: | abide.store
	$(call pretrain,abide.store,abide-tiny,--recipe tiny --set optimization.epochs=8)

abide-run/model: | abide.store
	$(call pretrain,abide.store,abide-run,$(REFERENCE) \
	    --set optimization.epochs=60 --set optimization.batch_size=64)

abide-time-courses/model: | abide.store
	$(call pretrain,abide.store,abide-time-courses,$(COURSES) --set model.dim=128 \
	    --set optimization.epochs=20)

# Principal time courses, and nothing trained.
abide-time-courses-start/model: | abide.store
	$(call pretrain,abide.store,abide-time-courses-start,$(COURSES) --set model.dim=128 \
	    --set optimization.epochs=0)

abide-time-courses-longer/model: | abide.store
	$(call pretrain,abide.store,abide-time-courses-longer,$(COURSES) --set model.dim=256 \
	    --set masks.probability=1 --set optimization.epochs=60)

# It leaves out who is tested in the first division of the study.
abide-run-training/model: | study/splits/diagnosis-random.json
	$(call pretrain,abide.store,abide-run-training,--recipe abide-run/config.yaml \
	    --precision bf16 --split study/splits/diagnosis-random.json --repeat 0)

study/splits/diagnosis-random.json:
	$(MAKE) -f $(lastword $(MAKEFILE_LIST)) abide

# The first division of the study, as a list of its own.
split0.csv: | abide-run-training/model
	$(PYTHON) -c "import json; \
	fold = json.load(open('study/splits/diagnosis-random.json'))['folds'][0]; \
	print('scan,part', *(f'{scan},{part}' for part in ('train', 'validation', 'test') \
	for scan in fold[part]), sep='\n')" > $@.new
	mv $@.new $@

demo/store:
	semantoks demo demo

stages: | $(call needed,stages,$(addsuffix _change_scores.txt,sofas bprs))
stages: | $(call needed,stages,stages_schaefer400_7n_order_tr2.h5)
	$(PYTHON) $(HERE)../examples/export_stages.py stages_schaefer400_7n_order_tr2.h5 $@ \
	    --outcome sofas=sofas_change_scores.txt --outcome bprs=bprs_change_scores.txt

stages.store: | $(call needed,stages.store,stages)
	semantoks prepare stages --atlas schaefer400 --table stages/scans.tsv --no-filter --out $@

stages-run/model: | stages.store
	$(call pretrain,stages.store,stages-run,$(REFERENCE) \
	    --set optimization.epochs=300 --set optimization.batch_size=55)

qtab.store: | $(call needed,qtab.store,qtab shen293_networks.tsv)
	semantoks prepare qtab --atlas shen293_networks.tsv --table qtab/participants.tsv --t-r 1.6 \
	    --filtered-before 0.01 0.12 --out $@

# Nothing is trained: components of everybody, without labels.
%-floor/model: | %.store
	$(call pretrain,$*.store,$*-floor,--recipe components)
%-floor.parquet: | %.store %-floor/model
	semantoks embed --data $*.store --model $*-floor --out $@

# abide or stages; pretrained, or with fresh weights; the reference read-out, or per network
%-features.parquet: | %.store %-run/model
	semantoks embed --data $*.store --model $*-run --out $@
%-untrained.parquet: | %.store %-run/model
	semantoks embed --data $*.store --model $*-run --untrained --out $@
%-networks.parquet: | %.store %-run/model
	semantoks embed --data $*.store --model $*-run --features networks --out $@
%-untrained-networks.parquet: | %.store %-run/model
	semantoks embed --data $*.store --model $*-run --features networks --untrained --out $@
