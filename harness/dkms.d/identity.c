// SPDX-License-Identifier: GPL-2.0
/*
 * Linked into each module of the DKMS package: what modinfo and
 * /sys/module/kvm/version say, and the proof that the module places the fields
 * which the kernel itself accesses where the kernel expects them. No CRC of
 * MODVERSIONS tells: they come with the headers, and so always match.
 */
#include <linux/kvm_host.h>
#include <linux/module.h>
#include "stock-layout.h"

MODULE_VERSION("@VERSION@");

#define assert_stock(type, field, where)				\
	static_assert(offsetof(struct type, field) == (where),		\
		      "the kernel expects " #field " of struct " #type " elsewhere")

assert_stock(kvm_vcpu, run, STOCK_VCPU_RUN);
assert_stock(kvm_vcpu, stat.signal_exits, STOCK_VCPU_SIGNAL_EXITS);
assert_stock(kvm_pmu, ds_area, STOCK_PMU_DS_AREA);
assert_stock(kvm_pmu, pebs_enable, STOCK_PMU_PEBS_ENABLE);
assert_stock(kvm_pmu, pebs_data_cfg, STOCK_PMU_PEBS_DATA_CFG);
assert_stock(kvm_pmu, host_cross_mapped_mask, STOCK_PMU_HOST_CROSS_MAPPED_MASK);
