# SPDX-License-Identifier: GPL-2.0
# Each verb is a script in harness/; `make` alone lists them.
export ARCH T KSRC BASE V TESTS TIMEOUT TRACE PATCH

help:
	@echo 'Verbs (variables: ARCH=x86_64|arm64|riscv64, T=one test, KSRC=a 6.12.y tree or tarball, V=1,'
	@echo '  TIMEOUT=seconds for each of TESTS, ACCEL=kvm):'
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10 | sed 's/^/  /'

deps: ## install the packages listed in harness/deps (sudo where not root)
	@harness/install-deps

tree: ## make build/linux: the base kernel and the series on it
	@harness/tree

refresh: ## write the commits in build/linux back to patches/ and the new files
	@harness/refresh

series: deps tree ## make out/series, out/series.mbox and out/debian, and prove them with git am
	@harness/series

dkms: deps tree ## make out/*.deb: modules of KVM with the series, for Debian's own kernel
	@harness/dkms

deb: deps tree ## make Debian packages of the patched kernel, in out/, and boot them (LSMOD=file)
	@harness/deb

rebase: deps tree ## what breaks on BASE (directory, tarball, repository:revision); without, take the result
	@harness/rebase

run: deps tree ## build, boot, print what a guest sees of each kind of memory; TESTS=DIR: run its tests
	@harness/run

compare: deps tree ## the same table, or that of TESTS=DIR, beside the unpatched base's
	@harness/run --compare

trace: $(if $(TRACE),,deps tree) ## the routes of its lookups, per kind of memory; TRACE=a trace.dat of yours
	@harness/trace

test: deps tree ## all tests, of all architectures or of ARCH; T=name for one
	@harness/test

bisect: deps tree ## build and boot each patch of the series, not only the last one (PATCH=regex)
	@harness/bisect

bench: deps tree ## instructions per fault, base and series
	@harness/bench

check: deps tree ## checkpatch, sparse, W=1, coccicheck per patch; Sphinx; shellcheck on the harness
	@harness/check

shell: deps tree ## boot the patched kernel to a prompt
	@harness/shell

clean: ## remove build/ and out/, unless build/linux has work that is not written back
	@harness/clean

# prerequisites are steps, in this order
.NOTPARALLEL:
.PHONY: help deps tree refresh series dkms deb rebase run compare trace test bisect bench check shell clean
