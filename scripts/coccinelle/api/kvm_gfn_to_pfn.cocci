// SPDX-License-Identifier: GPL-2.0-only
///
/// Resolve guest frames with __kvm_follow_pfn() instead of gfn_to_pfn() and its
/// kin, which architectures without CONFIG_KVM_GFN_TO_PFN do not have.
///
//# Lookups become unguarded ones (FOLL_GET), which own a reference until the
//# release.  That is the only conversion that is right whatever the caller does.
//# A caller that samples mmu_invalidate_seq before the lookup, and makes the retry
//# check under mmu_lock before it installs the pfn, wants guarded_by_mmu_notifier
//# instead: then there is nothing to release, the page is marked by
//# kvm_mark_page_mapped(), and memory without reference counts can be mapped.
//# See struct kvm_follow_pfn.
//#
//# A function is converted as a whole or, if it does more than use and release
//# what it looked up, only reported.  If the pfn is returned, stored or passed on,
//# then whoever releases it needs kvm_follow_pfn.page and .hold, because a pfn
//# does not tell what there is to release.
//#
//# Two things change.  Memory that is mapped without reference counts (VM_IO and
//# VM_PFNMAP) is refused, with a struct page or without, unless the parameter
//# kvm.allow_unsafe_mappings is set.  And the release puts what the lookup took,
//# it does not guess from the pfn.  A missing memslot is KVM_PFN_NOSLOT as before,
//# but a gfn outside of the given memslot is now reported as a misuse.
//#
//# In the kernel itself, it reports gfn_to_pfn() and its tests, and the callers that
//# are still to be converted.
//
// Confidence: Moderate
// Options: --no-includes --include-headers
// Requires: 1.0.8

virtual patch
virtual context
virtual org
virtual report

@initialize:python@
@@

by_hand = {
    "gfn_to_page_many_atomic": "its users want kvm_follow_pfn_batch()",
    "kvm_set_pfn_dirty": "kvm_release_held_page() marks, or kvm_mark_page_mapped()",
    "kvm_set_pfn_accessed": "kvm_release_held_page() marks, or kvm_mark_page_mapped()",
    "kvm_pfn_to_refcounted_page": "kvm_follow_pfn.page tells, a pfn does not",
}
whole = "its function cannot be converted as a whole"
reasons = {}
possible = set()
left_alone = set()

def key(p):
    return (p.file, p.line, p.column)

def explain(positions, reason):
    for p in positions:
        reasons.setdefault(key(p), reason)

def unexplained(positions):
    return not any(key(p) in reasons for p in positions)

def convert(positions):
    possible.update(key(p) for p in positions)

def leave(positions):
    left_alone.update((p.file, p.current_element) for p in positions
                      if key(p) not in possible)

def converted(p):
    return (p.file, p.current_element) not in left_alone and key(p) in possible

def message(old, p):
    if converted(p):
        return "WARNING opportunity for __kvm_follow_pfn(), instead of " + old
    reason = by_hand.get(old) or reasons.get(key(p)) or whole
    return "WARNING convert %s by hand: %s" % (old, reason)

//----------------------------------------------------------
//  What stands in the way of a conversion
//----------------------------------------------------------

// A lookup, and each release of what it found.
@kept exists@
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
identifier put = {kvm_release_pfn_clean, kvm_release_pfn_dirty, kvm_release_page_clean, kvm_release_page_dirty, put_page};
identifier v;
type T;
position p, r;
@@

(
v = get@p(...);
|
T v = get@p(...);
)
... when any
put@r(v)

@unreleased@
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
position p != kept.p;
@@

get@p(...)

@script:python@
p << unreleased.p;
@@

explain(p, "what it finds is not released in its function")

// The conversion needs the gfn twice, for the memslot and for the lookup.
@twice@
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_page};
identifier f != gpa_to_gfn;
expression K, E1, E2;
position p;
@@

get@p(K, <+... \(E1++\|E1--\|++E1\|--E1\|E1 = E2\|E1 += E2\|E1 -= E2\|f(...)\) ...+>, ...)

@script:python@
p << twice.p;
@@

explain(p, "its gfn must not be evaluated twice")

// Uses that leave the function the only owner.
@harmless@
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
identifier put = {kvm_release_pfn_clean, kvm_release_pfn_dirty, kvm_release_page_clean, kvm_release_page_dirty, put_page};
identifier use = {is_error_pfn, is_noslot_pfn, is_error_noslot_pfn, pfn_valid,
	pfn_to_page, pfn_to_hpa, pfn_to_kaddr, __pfn_to_phys, PFN_PHYS,
	kmap_local_pfn, is_error_page, page_address, page_to_pfn, page_to_phys,
	kmap, kunmap, kmap_atomic, kmap_local_page};
identifier print = {pr_err, pr_warn, pr_info, pr_debug};
identifier v;
expression E;
position a;
@@

(
v@a = get(...)
|
put(v@a)
|
use(v@a)
|
print(..., v@a, ...)
|
v@a << E
|
v@a == E
|
v@a != E
)

@escape exists@
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
identifier v;
type T;
position p, a != harmless.a;
@@

(
v = get@p(...);
|
T v = get@p(...);
)
... when any
v@a

@script:python@
p << escape.p;
@@

explain(p, "what it finds leaves its function")

// Once more around a loop, the variable starts anew and its reference does not.
@restart exists@
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
identifier v;
expression E;
type T, T1;
position p;
@@

(
v = get@p(...);
|
T v = get@p(...);
)
... when any
T1 v = E;

@script:python@
p << restart.p;
@@

explain(p, whole)

// A release that gets at something else on some path.  Errors are not released.
@declared@
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
identifier v;
type T;
position a;
@@

T v@a = get(...);

@foreign exists@
identifier put = {kvm_release_pfn_clean, kvm_release_pfn_dirty, kvm_release_page_clean, kvm_release_page_dirty, put_page};
identifier v;
expression E != {KVM_PFN_ERR_FAULT, KVM_PFN_ERR_HWPOISON, KVM_PFN_ERR_RO_FAULT, KVM_PFN_NOSLOT};
position q, a != harmless.a;
@@

\(v@a = E\|&v@a\)
... when any
put@q(v)

@script:python@
p << foreign.q;
@@

explain(p, whole)

@foreign_declared exists@
identifier put = {kvm_release_pfn_clean, kvm_release_pfn_dirty, kvm_release_page_clean, kvm_release_page_dirty, put_page};
identifier v;
expression E != {KVM_PFN_ERR_FAULT, KVM_PFN_ERR_HWPOISON, KVM_PFN_ERR_RO_FAULT, KVM_PFN_NOSLOT};
type T;
position q, a != declared.a;
@@

T v@a = E;
... when any
put@q(v)

@script:python@
p << foreign_declared.q;
@@

explain(p, whole)

@passed_in exists@
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
identifier F, v;
type T;
position p;
@@

F(..., T v, ...)
{
	<+...
	v = get@p(...)
	...+>
}

@script:python@
p << passed_in.p;
@@

explain(p, whole)

//----------------------------------------------------------
//  What can be converted
//----------------------------------------------------------

@lookup@
local idexpression v;
expression K, S, G, W, B;
symbol true, false;
position p : script:python() { unexplained(p) };
@@

v =
(
gfn_to_pfn@p(K, G)
|
gfn_to_page@p(K, G)
|
gfn_to_pfn_prot@p(K, G, W, \(NULL\|&B\))
|
gfn_to_pfn_memslot@p(S, G)
|
gfn_to_pfn_memslot_atomic@p(S, G)
|
__gfn_to_pfn_memslot@p(S, G, \(true\|false\), \(true\|false\), NULL, W, \(NULL\|&B\), NULL)
)
;

@script:python@
p << lookup.p;
@@

convert(p)

@lookup_declared@
identifier v;
type T;
expression K, S, G, W;
symbol true, false;
position p : script:python() { unexplained(p) };
@@

T v =
(
gfn_to_pfn@p(K, G)
|
gfn_to_page@p(K, G)
|
gfn_to_pfn_prot@p(K, G, W, NULL)
|
gfn_to_pfn_memslot@p(S, G)
|
gfn_to_pfn_memslot_atomic@p(S, G)
|
__gfn_to_pfn_memslot@p(S, G, \(true\|false\), \(true\|false\), NULL, W, NULL, NULL)
)
;

@script:python@
p << lookup_declared.p;
@@

convert(p)

@script:python@
p << kept.r;
@@

if unexplained(p):
    convert(p)

@check exists@
identifier v;
type T;
position p;
@@

(
v = gfn_to_page(...);
|
T v = gfn_to_page(...);
)
... when any
is_error_page@p(v)

@script:python@
p << check.p;
@@

convert(p)

// A function with anything else is left alone.
@legacy@
identifier old = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page, gfn_to_page_many_atomic, kvm_release_pfn_clean, kvm_release_pfn_dirty, kvm_release_page_clean, kvm_release_page_dirty, kvm_release_pfn, kvm_set_pfn_dirty, kvm_set_pfn_accessed, kvm_pfn_to_refcounted_page, is_error_page, KVM_ERR_PTR_BAD_PAGE};
position p;
@@

old@p

@script:python@
p << legacy.p;
@@

leave(p)

@fine exists@
identifier F;
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
position p;
@@

F(...)
{
	<+...
	get@p(...)
	...+>
}

@script:python@
p << fine.p;
@@

cocci.include_match(all(converted(x) for x in p))

//----------------------------------------------------------
//  For patch mode
//----------------------------------------------------------

@plain depends on patch exists@
identifier fine.F;
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
identifier v;
type T;
@@

F(...)
{
	... when any
(
	T v;
|
	T v = \(KVM_PFN_ERR_FAULT\|KVM_PFN_ERR_HWPOISON\|KVM_PFN_ERR_RO_FAULT\|KVM_PFN_NOSLOT\);
)
	... when any
	v = get(...);
	... when any
}

@script:python plain_name@
v << plain.v;
kfp;
@@
coccinelle.kfp = "kfp_" + v

// Before the first lookup there is nothing to release.
@depends on patch@
identifier fine.F, plain.v, plain_name.kfp;
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
@@

F(...)
{
++	struct kvm_follow_pfn kfp = {};
	<+...
	v = get(...);
	...+>
}

@variable depends on patch exists@
identifier fine.F;
identifier get = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page};
identifier v;
type T;
position p;
@@

F(...)
{
	<+...
(
	v = get@p(...);
|
	T v = get@p(...);
)
	...+>
}

@script:python named@
v << variable.v;
kfp;
@@
coccinelle.kfp = "kfp_" + v

// All lookups of a pfn are cases of one.
@depends on patch@
identifier fine.F;
expression K, S, G, W, B;
@@

F(...)
{
	<...
(
-	gfn_to_pfn(K, G)
+	__gfn_to_pfn_memslot(gfn_to_memslot(K, G), G, false, false, NULL, true, NULL, NULL)
|
-	gfn_to_pfn_prot(K, G, W, B)
+	__gfn_to_pfn_memslot(gfn_to_memslot(K, G), G, false, false, NULL, W, B, NULL)
|
-	gfn_to_pfn_memslot(S, G)
+	__gfn_to_pfn_memslot(S, G, false, false, NULL, true, NULL, NULL)
|
-	gfn_to_pfn_memslot_atomic(S, G)
+	__gfn_to_pfn_memslot(S, G, true, false, NULL, true, NULL, NULL)
)
	...>
}

@depends on patch@
identifier fine.F, variable.v, named.kfp;
expression K, S, G, I, W, B;
symbol true, false;
type T;
@@

F(...)
{
	<...
(
-	v = __gfn_to_pfn_memslot(S, G, false, I, NULL, W, NULL, NULL);
+	kfp = (struct kvm_follow_pfn) {
+		.slot = S,
+		.gfn = G,
+		.flags = FOLL_GET | (W ? FOLL_WRITE : 0) | (I ? FOLL_INTERRUPTIBLE : 0),
+	};
+	v = kfp.slot ? __kvm_follow_pfn(&kfp) : KVM_PFN_NOSLOT;
|
-	v = __gfn_to_pfn_memslot(S, G, false, I, NULL, W, &B, NULL);
+	kfp = (struct kvm_follow_pfn) {
+		.slot = S,
+		.gfn = G,
+		.flags = FOLL_GET | (W ? FOLL_WRITE : 0) | (I ? FOLL_INTERRUPTIBLE : 0),
+		.allow_write_mapping = true,
+	};
+	v = kfp.slot ? __kvm_follow_pfn(&kfp) : KVM_PFN_NOSLOT;
+	B = kfp.writable;
|
-	v = __gfn_to_pfn_memslot(S, G, true, I, NULL, W, NULL, NULL);
+	kfp = (struct kvm_follow_pfn) {
+		.slot = S,
+		.gfn = G,
+		.flags = FOLL_GET | (W ? FOLL_WRITE : 0),
+		.atomic = true,
+	};
+	v = kfp.slot ? __kvm_follow_pfn(&kfp) : KVM_PFN_NOSLOT;
|
-	v = __gfn_to_pfn_memslot(S, G, true, I, NULL, W, &B, NULL);
+	kfp = (struct kvm_follow_pfn) {
+		.slot = S,
+		.gfn = G,
+		.flags = FOLL_GET | (W ? FOLL_WRITE : 0),
+		.allow_write_mapping = true,
+		.atomic = true,
+	};
+	v = kfp.slot ? __kvm_follow_pfn(&kfp) : KVM_PFN_NOSLOT;
+	B = kfp.writable;
|
-	v = gfn_to_page(K, G);
+	kfp = (struct kvm_follow_pfn) {
+		.slot = gfn_to_memslot(K, G),
+		.gfn = G,
+		.flags = FOLL_GET | FOLL_WRITE,
+	};
+	if (kfp.slot)
+		__kvm_follow_pfn(&kfp);
+	v = kfp.page;
|
-	T v = __gfn_to_pfn_memslot(S, G, false, I, NULL, W, NULL, NULL);
+	struct kvm_follow_pfn kfp = {
+		.slot = S,
+		.gfn = G,
+		.flags = FOLL_GET | (W ? FOLL_WRITE : 0) | (I ? FOLL_INTERRUPTIBLE : 0),
+	};
+	T v = kfp.slot ? __kvm_follow_pfn(&kfp) : KVM_PFN_NOSLOT;
|
-	T v = __gfn_to_pfn_memslot(S, G, true, I, NULL, W, NULL, NULL);
+	struct kvm_follow_pfn kfp = {
+		.slot = S,
+		.gfn = G,
+		.flags = FOLL_GET | (W ? FOLL_WRITE : 0),
+		.atomic = true,
+	};
+	T v = kfp.slot ? __kvm_follow_pfn(&kfp) : KVM_PFN_NOSLOT;
|
-	T v = gfn_to_page(K, G);
+	struct kvm_follow_pfn kfp = {
+		.slot = gfn_to_memslot(K, G),
+		.gfn = G,
+		.flags = FOLL_GET | FOLL_WRITE,
+	};
+	T v = kfp.slot && !is_error_pfn(__kvm_follow_pfn(&kfp)) ?
+		kfp.page : NULL;
)
	...>
}

@depends on patch@
identifier fine.F, variable.v, named.kfp;
@@

F(...)
{
	<...
(
-	\(kvm_release_pfn_clean\|kvm_release_page_clean\)(v)
+	kvm_release_held_page(kfp.page, kfp.hold, false)
|
-	\(kvm_release_pfn_dirty\|kvm_release_page_dirty\)(v)
+	kvm_release_held_page(kfp.page, kfp.hold, true)
|
-	!is_error_page(v)
+	v
|
-	is_error_page(v)
+	!v
)
	...>
}

@depends on patch@
expression E;
symbol true, false;
@@

(
- E | (true ? FOLL_WRITE : 0)
+ E | FOLL_WRITE
|
- E | (false ? FOLL_WRITE : 0)
+ E
)

@depends on patch@
expression E;
symbol true, false;
@@

(
- E | (true ? FOLL_INTERRUPTIBLE : 0)
+ E | FOLL_INTERRUPTIBLE
|
- E | (false ? FOLL_INTERRUPTIBLE : 0)
+ E
)

//----------------------------------------------------------
//  For context mode
//----------------------------------------------------------

@depends on context@
identifier old = {gfn_to_pfn, gfn_to_pfn_prot, gfn_to_pfn_memslot, gfn_to_pfn_memslot_atomic, __gfn_to_pfn_memslot, gfn_to_page, gfn_to_page_many_atomic, kvm_release_pfn_clean, kvm_release_pfn_dirty, kvm_release_page_clean, kvm_release_page_dirty, kvm_release_pfn, kvm_set_pfn_dirty, kvm_set_pfn_accessed, kvm_pfn_to_refcounted_page, is_error_page, KVM_ERR_PTR_BAD_PAGE};
@@

* old

//----------------------------------------------------------
//  For org and report mode
//----------------------------------------------------------

@script:python depends on report@
text << legacy.old;
p << legacy.p;
@@

coccilib.report.print_report(p[0], message(text, p[0]))

@script:python depends on org@
text << legacy.old;
p << legacy.p;
@@

coccilib.org.print_todo(p[0], message(text, p[0]))
