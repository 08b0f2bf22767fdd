// SPDX-License-Identifier: GPL-2.0
/*
 * The fields of KVM's structures that code outside of KVM's modules accesses, as
 * the headers of the installed kernel place them: xfer_to_guest_mode_handle_work()
 * in kernel/entry/kvm.c those of struct kvm_vcpu, intel_guest_get_msrs() in
 * arch/x86/events/intel/core.c those of struct kvm_pmu.
 */
#include <linux/kbuild.h>
#include <linux/kvm_host.h>

static void __used stock_layout(void)
{
	OFFSET(STOCK_VCPU_RUN, kvm_vcpu, run);
	OFFSET(STOCK_VCPU_SIGNAL_EXITS, kvm_vcpu, stat.signal_exits);
	OFFSET(STOCK_PMU_DS_AREA, kvm_pmu, ds_area);
	OFFSET(STOCK_PMU_PEBS_ENABLE, kvm_pmu, pebs_enable);
	OFFSET(STOCK_PMU_PEBS_DATA_CFG, kvm_pmu, pebs_data_cfg);
	OFFSET(STOCK_PMU_HOST_CROSS_MAPPED_MASK, kvm_pmu, host_cross_mapped_mask);
}
