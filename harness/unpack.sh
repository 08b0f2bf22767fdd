# shellcheck shell=bash
# Sourced, after lib.sh and git.sh, by the scripts that make a work tree of a
# kernel source: a directory, a tarball, or REPOSITORY:REVISION.
need_mb=${KFP_NEED_MB:-4096}

# revision SRC: the commit that REPOSITORY:REVISION names.
revision() {
	[ ! -e "$1" ] && [ "${1%:*}" != "$1" ] && git -C "${1%:*}" rev-parse -q --verify "${1##*:}^{commit}" 2>/dev/null
}

# need_source SRC VARIABLE
need_source() {
	[ -e "$1" ] || revision "$1" >/dev/null ||
		die "no $1: $([ "$2" = BASE ] || echo "run 'make deps', or ")give $2=DIRECTORY, $2=TARBALL or $2=REPOSITORY:REVISION"
}

# source_id SRC: what tells one source from another; for a tarball its sha256.
source_id() {
	if [ -d "$1" ]; then
		realpath "$1"
	elif ! revision "$1"; then
		sha256sum <"$1" | cut -d' ' -f1
	fi
}

# known FIELD VALUE: the line of base/versions where FIELD is VALUE.
known() {
	awk -v n="$1" -v v="$2" '$n == v { print; exit }' "$ROOT/base/versions"
}

# files VERB [TOTAL]: count the names of files, which nobody wants to read.
files() {
	V='' counting "$1: file" "${2:-}" . 100
}

# unpack SRC ID [VERSIONS [OBJECTS]]: make $LINUX of it, if its version is one of
# VERSIONS; with what it shares with another repository left in that one's OBJECTS.
unpack() {
	local src=$1 id=$2 new=$LINUX.new free line version tree total
	free=$(df -Pm "$BUILD" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$need_mb" ] ||
		die "$BUILD has $free MB free, a kernel tree with its history needs $need_mb: free some, or put build elsewhere"
	say "unpacking $src"
	trap 'rm -rf "$new" "$new.err"' EXIT
	rm -rf "$new"
	mkdir "$new"
	if [ -d "$src" ]; then
		if [ -e "$src/.config" ] || [ -e "$src/include/generated" ]; then
			die "$src holds build products: run 'make mrproper' in it"
		fi
		tar -C "$src" --exclude=./.git -cf - . | tar -C "$new" --no-same-owner -xvf - | files unpacking ||
			die "$src cannot be copied, see above"
	elif [ ! -e "$src" ]; then
		git -C "${src%:*}" archive --format=tar "$id" | tar -C "$new" --no-same-owner -xvf - | files unpacking ||
			die "$src cannot be unpacked, see above"
	else
		tar -C "$new" --strip-components=1 --no-same-owner -xvf "$src" 2>"$new.err" | files unpacking ||
			die "$src is not a whole kernel tarball ($(head -1 "$new.err")): fetch it again"
		rm -f "$new.err"
	fi
	[ -f "$new/Makefile" ] || die "$src is not a kernel tree: it has no Makefile"
	version=$(version_of <"$new/Makefile")
	# shellcheck disable=SC2254 # a pattern
	case $version in
	${3:-*}) ;;
	*) die "$src is Linux $version, not 6.12.y: give another KSRC, or none" ;;
	esac

	say "importing Linux $version"
	total=$(find "$new" ! -type d | wc -l)
	git init -q -b series "$new"
	[ -z "${4:-}" ] || printf '%s\n' "$4" >"$new/.git/objects/info/alternates"
	git -C "$new" config core.autocrlf false
	git -C "$new" config core.fileMode true
	git -C "$new" config gc.auto 0
	git -C "$new" config kfp.source "$id"
	# -f: the tree's own .gitignore hides files that belong to it
	git -C "$new" add -Avf | files importing "$total"
	tree=$(git -C "$new" write-tree)
	line=$(known 2 "$id")
	[ -z "$line" ] || [ "$tree" = "${line##* }" ] ||
		die "$src was unpacked as tree $tree, not ${line##* }: is $BUILD on a case-insensitive filesystem?"
	GIT_AUTHOR_NAME=$GIT_COMMITTER_NAME GIT_AUTHOR_EMAIL=$GIT_COMMITTER_EMAIL \
		GIT_AUTHOR_DATE='1735689600 +0000' GIT_COMMITTER_DATE='1735689600 +0000' \
		git -C "$new" commit -q -m 'Linux base'
	git -C "$new" tag base
	mv -T "$new" "$LINUX"
	trap - EXIT HUP INT TERM
}

