# Builds, tests, shows and installs spank-vm. 'make' alone lists the targets.
#
# cargo builds the products. They are staged in target/stage in the layout of an installation, so
# that tests and demo run what would be installed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
QUIET := --quiet
# 'sudo make' loses the PATH and the home directory that rustup was installed for.
ifneq ($(SUDO_USER),)
ifeq ($(shell command -v $(CARGO)),)
SUDO_HOME := $(shell getent passwd $(SUDO_USER) | cut -d: -f6)
export PATH := $(PATH):$(SUDO_HOME)/.cargo/bin
export RUSTUP_HOME ?= $(SUDO_HOME)/.rustup
endif
endif

TARGET  := target
STAGE   := $(TARGET)/stage
KIT     := $(TARGET)/kit
IMAGES  := $(TARGET)/images
ROOTS   := $(TARGET)/rootfs
FULL    := $(TARGET)/images-full
DISKS   := $(TARGET)/disks
CACHE   := $(TARGET)/cache
TOOLS   := $(TARGET)/tools
AGENT_TRIPLE := x86_64-unknown-linux-gnu

PLUGIN  := $(STAGE)/lib/spank_vm.so
PROGRAM := $(STAGE)/libexec/spank-vm
STEP    := $(STAGE)/libexec/spank-vm-step
AGENT   := $(STAGE)/libexec/spank-vm-agent

# Installation. DESTDIR is put before every path; it is for packagers.
DESTDIR    ?=
PREFIX     ?= /usr
SYSCONFDIR ?= /etc
# Slurm's own answer, else Debian's path.
PLUGINDIR  ?= $(or $(shell timeout 5 scontrol show config 2>/dev/null | awk '$$1 == "PluginDir" { print $$3 }'),/usr/lib/x86_64-linux-gnu/slurm-wlm)
LIBEXECDIR ?= $(PREFIX)/libexec/spank-vm
SHAREDIR   ?= $(PREFIX)/share/spank-vm
DOCDIR     ?= $(PREFIX)/share/doc/spank-vm
# zsh looks for completions in another place on Debian.
ZSHDIR     ?= $(PREFIX)/share/zsh/$(if $(wildcard /etc/debian_version),vendor-completions,site-functions)

# The same bytes wherever it is built: no path of this machine is in the programs.
REMAP := --remap-path-prefix=$(CURDIR)=/spank-vm --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo

SCRIPTS := .ci/run fuzz/run benches/paper-way benches/files/work.sh docs/examples/ring \
           packaging/debian-deps packaging/bill packaging/make-packages packaging/reproduce $(wildcard packaging/debian/p[or]*) \
           slurm-conf/example-job.sh slurm-conf/prolog tests/parity/prelude.sh $(filter-out %.c,$(wildcard tests/images/*)) \
           testkit/one testkit/suites testkit/packages testkit/coverage testkit/lab/lab testkit/lab/make-node \
           testkit/cluster/cluster testkit/cluster/demo testkit/cluster/lib/v2-node testkit/cluster/lib/own-network \
           $(wildcard testkit/cluster/lib/*.sh)

# By these the tests on a real cluster find the build; for a build made elsewhere, set them in the environment.
export SPANK_VM_STAGE  ?= $(abspath $(STAGE))
export SPANK_VM_KIT    ?= $(abspath $(KIT))
export SPANK_VM_IMAGES ?= $(abspath $(IMAGES))
# The same plugin with hooks that panic on demand, for tests/hooks.
export SPANK_VM_PANICKING_PLUGIN := $(abspath $(TARGET)/panics/debug/libspank_vm.so)

# Checks dependencies with the rules in deny.toml.
DENY_VERSION := 0.20.2
DENY         := $(TOOLS)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

# Not every exception is needed in both workspaces.
DENY_WHAT    := --allow license-exception-not-encountered bans licenses sources

comma := ,
section = @printf '\n=== %s\n' '$(1)'

##@ Try and test

.PHONY: help
help: ## this table
	@awk 'BEGIN { FS = ":.*## "; print "make TARGET" } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo demo-ready demo-stop
# Cargo shows what it does, because the first build takes minutes.
demo: QUIET :=
demo: demo-ready deps build kit demo-images ## start a small Slurm and show VM jobs in it (as root; installs what is missing)
	$(call section,demo)
	@STAGE=$(abspath $(STAGE)) KIT=$(abspath $(KIT)) IMAGES=$(abspath $(IMAGES)) testkit/cluster/demo

demo-ready:
	@CARGO=$(CARGO) testkit/cluster/demo ready

demo-stop: ## end the demo's Slurm
	@testkit/cluster/demo stop

.PHONY: test test-one lint lint-rust lint-shell lint-deps advisories coverage test-unit test-hooks test-slurm test-network test-parity test-faults test-long fuzz miri parity reliability bench bench-plugin figure4
# One after the other, even with -j, because these tests also measure the machine. Those that fail fast come first.
test: ## all tests that need no node VM, what is quick first; at its end how long each suite took (as root)
	@MAKE=$(MAKE) testkit/suites deps lint test-unit test-hooks build kit images disks test-slurm test-network test-parity test-faults
	$(call section,all tests passed)

test-one: ## one test by (a part of) its name, whatever suite it is in: make test-one TEST=exit_code
	@CARGO=$(CARGO) MAKE=$(MAKE) testkit/one '$(TEST)'

lint: lint-rust lint-shell lint-deps ## formatting, compiler and shell warnings, licences and sources of dependencies

lint-rust:
	$(call section,lint: rustfmt and clippy)
	$(CARGO) fmt --all --check
	# A macro declares their modules, and cargo fmt does not look into macros.
	rustfmt --edition 2024 --check crates/request/src/options/*.rs
	$(CARGO) clippy --quiet --workspace --all-targets -- -D warnings

lint-shell:
	$(call section,lint: shellcheck)
	shellcheck --external-sources --source-path=SCRIPTDIR $(SCRIPTS)

lint-deps: $(DENY)
	$(call section,lint: licences$(comma) versions and sources of dependencies)
	$(DENY) --locked check $(DENY_WHAT)
	$(DENY) --locked --manifest-path fuzz/Cargo.toml --config deny.toml check $(DENY_WHAT)

# Its own copy: takes a minute once, and everybody has the same version.
$(DENY):
	$(call section,cargo-deny $(DENY_VERSION))
	$(CARGO) install --quiet --locked --debug --version $(DENY_VERSION) --root $(TOOLS)/cargo-deny-$(DENY_VERSION) \
	  --target-dir $(TOOLS)/build cargo-deny
	@rm -rf $(TOOLS)/build

advisories: $(DENY) ## known vulnerabilities of dependencies (asks RustSec's database on GitHub)
	$(DENY) --locked check advisories

test-unit: ## tests without Slurm or QEMU
	$(call section,unit tests)
	$(CARGO) test --quiet --workspace --lib --bins
	$(CARGO) test --quiet -p spank-vm-files --test mount
	$(CARGO) test --quiet -p spank-vm-cli --test docs --test output --test check --test file_server --test prolog
	$(CARGO) test --quiet -p spank-vm --test house

coverage: ## how much of each crate the unit tests run
	@packaging/debian-deps coverage
	$(call section,coverage of the unit tests)
	@CARGO=$(CARGO) testkit/coverage

test-hooks: build-plugin build-panics ## the plugin's hooks, called by a stand-in for slurmstepd
	$(call section,hook tests)
	$(CARGO) test --quiet -p spank-vm --test hooks

.PHONY: build-panics
build-panics:
	$(CARGO) build --quiet -p spank-vm --features panics-on-demand --target-dir $(TARGET)/panics

test-slurm: build kit images disks ## tests on a real private Slurm with real VMs (as root)
	$(call section,tests on a real Slurm)
	$(CARGO) test --quiet -p spank-vm --test slurm

test-network: build kit images ## networks of steps, on nodes with network namespaces of their own (as root)
	$(call section,networks of steps)
	$(CARGO) test --quiet -p spank-vm-network --test node
	$(CARGO) test --quiet -p spank-vm --test network

test-parity: build kit images ## the same scripts bare and in a VM, compared (as root)
	$(call section,parity of bare-metal and VM steps)
	$(CARGO) test --quiet -p spank-vm --test parity

test-long: build kit images-long disks-long ## what takes minutes: gigabytes, time limits, many images, faults among hundreds of VMs, fuzzing, coverage (as root)
	@MAKE=$(MAKE) SPANK_VM_LONG=1 testkit/suites suite-slurm suite-network suite-parity suite-faults fuzz coverage

# Without the builds that they need: for 'test-long'.
.PHONY: suite-slurm suite-network suite-parity suite-faults
suite-slurm suite-network suite-parity suite-faults: suite-%:
	$(call section,$* on a real Slurm)
	$(CARGO) test --quiet -p spank-vm --test $*

# Recipes do not call it SECONDS: that is a variable of the shell.
fuzz: ## what guests and users can forge, 10 s per reader; SECONDS=3600 for an hour each
	$(call section,fuzzing)
	CARGO=$(CARGO) fuzz/run $(or $(SECONDS),10)

# Interprets the unsafe code that can be interpreted; tests that start programs or need Slurm are left out.
miri: ## wire format, request and Slurm's face under miri (needs: rustup toolchain install nightly -c miri)
	MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) +nightly miri test --target-dir $(TARGET)/miri \
	  -p spank-vm-proto -p spank-vm-request -p spank-vm --lib

test-faults: build kit images ## what breaks, one fault at a time, and what is left then (as root)
	$(call section,faults on a real Slurm)
	$(CARGO) test --quiet -p spank-vm --test faults

reliability: test-faults ## the same with hundreds of VMs, and RELIABILITY.md anew from what was seen
	SPANK_VM_LONG=1 $(CARGO) test --quiet -p spank-vm --test faults
	cat $(TARGET)/RELIABILITY.md $(TARGET)/RELIABILITY-long.md >RELIABILITY.md

parity: test-parity ## short and long cases, and PARITY.md anew from what was seen
	SPANK_VM_LONG=1 $(CARGO) test --quiet -p spank-vm --test parity
	cat $(TARGET)/PARITY.md $(TARGET)/PARITY-long.md >PARITY.md

bench: build kit images images-full ## all ways of starting and throughput, into target/bench/*.csv (RUNS=10; as root)
	$(call section,benchmark)
	$(CARGO) bench --quiet -p spank-vm --bench start
	$(CARGO) bench --quiet -p spank-vm --bench throughput
	$(CARGO) bench --quiet -p spank-vm --bench files
	$(CARGO) bench --quiet -p spank-vm --bench parallel

bench-plugin: build kit images ## what the plugin adds to a bare-metal srun, into target/bench/plugin.csv (RUNS=200; as root)
	$(call section,the plugin's cost)
	$(CARGO) bench --quiet -p spank-vm --bench plugin

# Takes an hour or more, of which the slow series take at most MINUTES; benches/figure4/main.rs says which other variables choose a part of it.
figure4: build kit images images-full ## the paper's Figure 4 again, into target/figure4 (REPEATS=10, MINUTES=20; as root)
	@packaging/debian-deps figure4
	$(call section,Figure 4)
	$(CARGO) bench --quiet -p spank-vm --bench figure4

# Node VMs of Debian under emulation, with KVM, systemd and cgroup v2: docs/lab.md. RELEASE=trixie for another one, NODES=2 for two.
LAB     := /var/tmp/spank-vm-lab
RELEASE ?= bookworm
NODES   ?= 1
MATRIX  ?= bookworm bookworm-backports trixie sid
.PHONY: lab lab-stop lab-tree lab-packages test-lab test-matrix bench-lab
lab: lab-tree kit images ## start a node VM with KVM, systemd and Slurm, and leave it up (RELEASE=bookworm, NODES=1; as root)
	@testkit/lab/lab start $(LAB) $(RELEASE) $(NODES)
	@testkit/lab/lab greet $(LAB)

lab-stop: ## end it
	@testkit/lab/lab stop $(LAB)

# What the node VMs install.
lab-tree: build
	@rm -rf $(TARGET)/lab/tree
	@$(MAKE) install DESTDIR=$(abspath $(TARGET)/lab/tree) PLUGINDIR=/usr/lib/x86_64-linux-gnu/slurm-wlm >/dev/null

# Two versions of the package beside it, for the upgrade.
lab-packages: lab-tree packages
	@packaging/make-packages $(TARGET)/packages/newer 9.9.9 >/dev/null
	@install -D -m 644 -t $(TARGET)/lab/tree/usr/local/lib/spank-vm-packages/old $(TARGET)/packages/*.deb
	@install -D -m 644 -t $(TARGET)/lab/tree/usr/local/lib/spank-vm-packages/new $(TARGET)/packages/newer/*.deb

test-lab: lab-packages kit images lab-disks ## tests with KVM in node VMs of Debian 12 and 13 (as root)
	$(call section,tests in the lab)
	$(CARGO) test --quiet -p spank-vm --test lab

# Debian's packages, unpacked and configured: once, until the recipe changes.
LAB_DISKS ?= bookworm trixie
.PHONY: lab-disks
lab-disks:
	@for release in $(LAB_DISKS); do testkit/lab/lab image $$release; done

# A release that is not stable yet may fail for reasons of its own; the table then shows them.
test-matrix: LAB_DISKS := $(MATRIX)
test-matrix: lab-packages kit images lab-disks ## all of it on more releases of Slurm and QEMU, and docs/releases.md anew (as root)
	$(call section,releases in the lab)
	SPANK_VM_LAB_WHOLE=1 SPANK_VM_LAB_RELEASES='$(MATRIX)' $(CARGO) test --quiet -p spank-vm --test lab || code=$$?; \
	  cp $(TARGET)/lab/releases.md docs/releases.md; exit $${code:-0}

bench-lab: lab-tree kit images ## starts and parallel jobs with KVM in the lab, into docs/lab.md and docs/parallel.md (RUNS=5; as root)
	$(CARGO) bench --quiet -p spank-vm --bench lab-start
	SPANK_VM_LAB_RELEASES="$${SPANK_VM_LAB_RELEASES:-trixie}" $(CARGO) bench --quiet -p spank-vm --bench parallel

##@ Build

.PHONY: deps build kit images demo-images images-long disks disks-long images-full clean
deps: ## install missing Debian packages (as root; starts no service)
	@packaging/debian-deps

build: build-plugin build-runner build-agent ## plugin, program and static agent, into target/stage

# Copies only what changed, so that targets that depend on a product are not made again for nothing.
define stage
	@cmp -s $(1) $(2) || { install -D -m 755 $(1) $(2) && echo 'staged $(2)'; }
endef

# Where cargo shows what it does, what it does it for is said before.
announce = $(if $(QUIET),,@printf '\n=== build: %s\n' '$(1)')

.PHONY: build-plugin build-runner build-agent
build-plugin:
	$(call announce,the plugin (1 of 3$(comma) the first time a minute or two for all))
	@RUSTFLAGS='$(REMAP)' $(CARGO) build $(QUIET) --release -p spank-vm
	$(call stage,$(TARGET)/release/libspank_vm.so,$(PLUGIN))

build-runner:
	$(call announce,the program (2 of 3))
	@RUSTFLAGS='$(REMAP)' $(CARGO) build $(QUIET) --release -p spank-vm-cli
	$(call stage,$(TARGET)/release/spank-vm,$(PROGRAM))
	@ln -sfn spank-vm $(STEP)

build-agent:
	$(call announce,the agent for guests (3 of 3))
	@RUSTFLAGS='-C target-feature=+crt-static $(REMAP)' $(CARGO) build $(QUIET) --profile agent -p spank-vm-agent \
	  --target $(AGENT_TRIPLE) --target-dir $(TARGET)/agent-build
	$(call stage,$(TARGET)/agent-build/$(AGENT_TRIPLE)/agent/spank-vm-agent,$(AGENT))

# A separate make: this one may have read the files' dates before cargo was done.
kit: build ## the boot kit (guest kernel and agent), into target/kit
	@$(MAKE) --silent $(KIT)/.made

$(KIT)/.made: $(AGENT)
	$(call section,boot kit)
	@rm -f $@
	@$(PROGRAM) kit build --agent $(AGENT) --output $(KIT) --cache $(CACHE)
	@touch $@

images: build ## the images 'tiny', 'debian12', 'debian12-i386' and 'debian12-mpi', into target/images
	@$(MAKE) --silent $(foreach image,tiny debian12 debian12-i386 debian12-mpi,$(ROOTS)/$(image).tar $(IMAGES)/.$(image).made)

# What the demo shows, and no more.
demo-images: build
	@$(MAKE) --silent $(foreach image,tiny debian12,$(ROOTS)/$(image).tar $(IMAGES)/.$(image).made)

images-long: images
	@$(MAKE) $(foreach image,debian11 debian13,$(ROOTS)/$(image).tar $(IMAGES)/.$(image).made)

$(IMAGES)/.tiny.made:          DESCRIPTION := busybox and nothing else, for tests
$(IMAGES)/.debian11.made:      DESCRIPTION := Debian 11 (bullseye), minimal
$(IMAGES)/.debian12.made:      DESCRIPTION := Debian 12 (bookworm), minimal
$(IMAGES)/.debian12-i386.made: DESCRIPTION := Debian 12 (bookworm) with 32-bit programs, minimal
$(IMAGES)/.debian12-mpi.made:  DESCRIPTION := Debian 12 (bookworm) with Open MPI and MPICH, for tests
$(IMAGES)/.debian13.made:      DESCRIPTION := Debian 13 (trixie), minimal

# Made again when the recipe changes, not with every build.
$(IMAGES)/.%.made: $(ROOTS)/%.tar
	$(call section,image $*)
	@mkdir -p $(IMAGES)
	@$(PROGRAM) image import $< --name $* --dir $(IMAGES) --replace --description '$(DESCRIPTION)'
	@touch $@

disks: ## the disk 'debian12-disk', a Debian that boots its own kernel, into target/disks (as root)
	@$(MAKE) $(DISKS)/.debian12-disk.made

disks-long: disks
	@$(MAKE) $(DISKS)/.debian11-disk.made

$(DISKS)/.debian12-disk.made: SUITE := bookworm
$(DISKS)/.debian11-disk.made: SUITE := bullseye

$(DISKS)/.%.made: tests/images/systemd-disk
	$(call section,disk $*)
	@mkdir -p $(DISKS)
	@tests/images/systemd-disk $* $(SUITE) $(DISKS)
	@touch $@

# Kept, because the tests make disks and container images of them.
.PRECIOUS: $(ROOTS)/%.tar
$(ROOTS)/%.tar: tests/images/%
	$(call section,files of image $*)
	@mkdir -p $(ROOTS)
	@tests/images/$* >$@.partial
	@mv $@.partial $@

$(foreach image,debian11 debian12 debian12-i386 debian12-mpi debian13,$(ROOTS)/$(image).tar): tests/images/debian

# 'bench' and 'figure4' compare with this; nothing else needs it.
images-full: ## an ordinary Debian 12 with systemd for the measurements, into target/images-full (as root)
	@$(MAKE) $(FULL)/.made

$(FULL)/.made: tests/images/debian12-full
	$(call section,image debian12-full)
	@mkdir -p $(FULL)
	@tests/images/debian12-full $(FULL)
	@touch $@

clean: ## remove everything that was built
	$(CARGO) clean

##@ Install

.PHONY: packages reproduce test-packages
packages: build ## .deb and .rpm into target/packages, looked at by lintian and rpmlint
	@packaging/debian-deps packages
	$(call section,packages)
	@packaging/make-packages $(TARGET)/packages $(PACKAGE_VERSION)

reproduce: ## make the packages twice, in two places, and compare every byte
	@packaging/debian-deps packages
	$(call section,packages made twice)
	@CARGO=$(CARGO) packaging/reproduce $(TARGET)/reproduce

test-packages: packages ## install, upgrade and remove the .deb in fresh Debian 12 and 13 (as root)
	$(call section,packages in fresh systems)
	@testkit/packages $(TARGET)/packages

.PHONY: install install-built uninstall
install: build ## plugin, program, manual pages and samples; DESTDIR=, PREFIX=/usr, PLUGINDIR= move them
	@$(MAKE) install-built

# For packages: builds nothing.
install-built:
	install -D -m 644 $(PLUGIN) $(DESTDIR)$(PLUGINDIR)/spank_vm.so
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(LIBEXECDIR)/spank-vm
	ln -sfn spank-vm $(DESTDIR)$(LIBEXECDIR)/spank-vm-step
	install -D -m 755 $(AGENT) $(DESTDIR)$(LIBEXECDIR)/spank-vm-agent
	install -d $(DESTDIR)$(PREFIX)/bin
	ln -sfn --relative $(DESTDIR)$(LIBEXECDIR)/spank-vm $(DESTDIR)$(PREFIX)/bin/spank-vm
	$(PROGRAM) documents $(DESTDIR)$(PREFIX)/share
	install -D -m 644 $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_spank-vm $(DESTDIR)$(ZSHDIR)/.spank-vm
	rm $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_spank-vm
	mv $(DESTDIR)$(ZSHDIR)/.spank-vm $(DESTDIR)$(ZSHDIR)/_spank-vm
	rmdir --ignore-fail-on-non-empty $(DESTDIR)$(PREFIX)/share/zsh/site-functions || true
	install -D -m 644 -t $(DESTDIR)$(SHAREDIR) slurm-conf/plugstack.conf slurm-conf/spank-vm.toml slurm-conf/job_submit.lua \
	  packaging/70-spank-vm-kvm.rules
	install -D -m 755 -t $(DESTDIR)$(SHAREDIR) slurm-conf/prolog slurm-conf/example-job.sh
	install -D -m 644 -t $(DESTDIR)$(DOCDIR) README.md CHANGELOG.md SECURITY.md ARCHITECTURE.md CONTRIBUTING.md PARITY.md RELIABILITY.md LICENSE
	install -D -m 644 -t $(DESTDIR)$(DOCDIR)/docs docs/*.md docs/*.svg
	# What the documents link to.
	install -D -m 644 -t $(DESTDIR)$(DOCDIR)/docs/examples docs/examples/*
	install -D -m 644 -t $(DESTDIR)$(DOCDIR)/benches/figure4 benches/figure4/figure4.svg
	install -D -m 644 -t $(DESTDIR)$(DOCDIR)/benches/parallel benches/parallel/messages.c
	ln -sfn --relative $(DESTDIR)$(SHAREDIR) $(DESTDIR)$(DOCDIR)/slurm-conf
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system packaging/spank-vm-*.service packaging/spank-vm-*.timer
	install -D -m 644 packaging/spank-vm.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/spank-vm.conf
	@conf=$(DESTDIR)$(SYSCONFDIR)/slurm/spank-vm.toml; \
	  if [[ -e $$conf ]]; then echo "kept your $$conf"; else install -D -m 644 slurm-conf/spank-vm.toml "$$conf"; fi
	@echo 'Installed. Left to do, on every node:'
	@echo '  1. load the plugin: the line in $(SHAREDIR)/plugstack.conf belongs into $(SYSCONFDIR)/slurm/plugstack.conf'
	@echo '  2. make a boot kit and an image: spank-vm kit build; spank-vm image import'
	@echo '  3. see what this node is able to: spank-vm check'

uninstall: ## remove what install put there; the configuration stays
	rm -f $(DESTDIR)$(PLUGINDIR)/spank_vm.so $(DESTDIR)$(PREFIX)/bin/spank-vm $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/spank-vm.conf
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/spank-vm-{templates.service,metrics.service,metrics.timer}
	rm -f $(DESTDIR)$(PREFIX)/share/man/{man1/spank-vm.1,man5/spank-vm.toml.5,man8/spank_vm.8} $(DESTDIR)$(ZSHDIR)/_spank-vm
	rm -f $(DESTDIR)$(PREFIX)/share/{bash-completion/completions/spank-vm,fish/vendor_completions.d/spank-vm.fish}
	rm -rf $(DESTDIR)$(LIBEXECDIR) $(DESTDIR)$(SHAREDIR) $(DESTDIR)$(DOCDIR)
	@echo 'Kept $(DESTDIR)$(SYSCONFDIR)/slurm/spank-vm.toml. Take spank_vm.so out of plugstack.conf: a required plugin that is missing stops all jobs.'
