# shellcheck shell=bash
# Sourced, after lib.sh, by the scripts of the round trip between the project
# and the kernel work tree: same hashes on every machine, whatever its user's
# locale, umask and git configuration.
umask 022
export LC_ALL=C TZ=UTC
export GIT_CONFIG_GLOBAL=$ROOT/harness/gitconfig GIT_CONFIG_SYSTEM=/dev/null GIT_ATTR_NOSYSTEM=1
export GIT_CONFIG_COUNT=3
export GIT_CONFIG_KEY_0=core.attributesFile GIT_CONFIG_VALUE_0=/dev/null
export GIT_CONFIG_KEY_1=core.excludesFile GIT_CONFIG_VALUE_1=/dev/null
export GIT_CONFIG_KEY_2=core.hooksPath GIT_CONFIG_VALUE_2=/dev/null
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_CONFIG_PARAMETERS
LINUX=$BUILD/linux
export GIT_COMMITTER_NAME=kvm-follow-pfn GIT_COMMITTER_EMAIL=base@invalid

# The kernel's top-level names that the project uses: what stands below them
# in the project is a new kernel file.
OVERLAY=(Documentation arch include lib mm scripts tools virt)

klinux() {
	git -C "$LINUX" "$@"
}

need_linux() {
	klinux rev-parse -q --verify 'base^{commit}' >/dev/null 2>&1 ||
		die "no kernel tree in $LINUX: run 'make tree'"
}

# unclean: one path in build/linux that is in no commit, if there is any. Debian's
# .gitignore hides every new file, so look for those without it.
unclean() {
	{
		klinux status --porcelain -uno | cut -c4-
		klinux ls-files -o -x '*.o' -x '*.a' -x '*.ko' -x '*.mod' -x '*.mod.c' -x '*.cmd' -x Module.symvers \
			-x modules.order -x '*~' -x '.*.sw?' -x '*.orig' -x '*.rej' -x __pycache__ -- "${OVERLAY[@]}"
	} | sed -n 1p
}

# refuse_unclean: say so.
refuse_unclean() {
	local path
	path=$(unclean)
	[ -z "$path" ] ||
		die "build/linux has uncommitted work in $path: commit it (a new file needs 'git add -f') and 'make refresh', or drop it"
}

# refuse_unwritten: nor commits that are in no patch.
refuse_unwritten() {
	local extra
	refuse_unclean
	extra=$(klinux log -1 --format='%h (%s)' --branches HEAD --not base "$(klinux rev-parse -q --verify refs/kfp/series || echo base)")
	[ -z "$extra" ] || die "build/linux has $extra, which is not in the project: 'make refresh', or delete its branch"
}

# refuse_rebased: nor what a person has done in build/rebase/linux.
refuse_rebased() {
	local made LINUX=$BUILD/rebase/linux
	made=$(klinux rev-parse -q --verify refs/kfp/rebase 2>/dev/null) || return 0
	if [ "$(klinux rev-parse HEAD)" != "$made" ] || [ -n "$(unclean)" ]; then
		die "build/rebase/linux has work of yours: 'make rebase' takes it, 'rm -rf build/rebase' drops it"
	fi
}

# overlay_files DIR: the new kernel files of the project in DIR.
overlay_files() (
	cd "$1" || exit
	for d in "${OVERLAY[@]}"; do
		[ ! -e "$d" ] || find "$d" ! -type d
	done | sort
)

# series_patches DIR: the patches in order, comments and blanks dropped.
series_patches() {
	[ ! -e "$1/patches/series" ] || sed 's/#.*//; s/[[:space:]]*$//; /^$/d' "$1/patches/series"
}

# manifest DIR: a line for each file the assembled tree depends on.
manifest() (
	cd "$1" || exit
	{
		[ ! -d patches ] || find patches -name series -o -name '*.patch'
		overlay_files .
	} | sort | while IFS= read -r f; do
		mode=100644
		[ ! -x "$f" ] || mode=100755
		printf '%s %s %s\n' "$mode" "$(git hash-object --no-filters -- "$f")" "$f"
	done
)

# The version that a kernel Makefile on standard input claims.
version_of() {
	awk '$2 == "=" && /^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) / { v[$1] = $3 }
		END { print v["VERSION"] "." v["PATCHLEVEL"] "." v["SUBLEVEL"] v["EXTRAVERSION"] }'
}

# version_of_base: the Debian version if base/versions knows the tree; where two
# have the same tree, that of the tarball.
version_of_base() {
	local known
	known=$(awk -v t="$(klinux rev-parse 'base^{tree}')" -v s="$(klinux config kfp.source || :)" '
		$3 == t && (!v || $2 == s) { v = $1 }
		END { print v }' "$ROOT/base/versions")
	if [ -n "$known" ]; then
		say "$known"
	else
		say "$(klinux show base:Makefile | version_of) (not in base/versions)"
	fi
}
