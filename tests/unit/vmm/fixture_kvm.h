/* fixture_kvm: a VM of KVM's for tests that need a real one. */
#ifndef CAIRN_TESTS_UNIT_VMM_FIXTURE_KVM_H
#define CAIRN_TESTS_UNIT_VMM_FIXTURE_KVM_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct kvm;
struct memory;

/* Fail the test unless r is 0 or more. */
void must(int r, const struct err *e);
/* Allocate a test's fixture, whose first member is a struct kvm, and create a VM there. Without /dev/kvm, skip the test
 * with a message. The caller ends the VM and frees the fixture. */
void *kvm_fx_new(size_t bytes);
/* Give the VM memory. */
void kvm_fx_memory(struct kvm *k, struct memory *m, uint64_t bytes);

#endif
