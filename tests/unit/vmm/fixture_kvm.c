#include "fixture_kvm.h"
#include "base/err.h"
#include "vmm/kvm/host_files.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

void must(int r, const struct err *e)
{
	if (r < 0)
		fail_msg("%d: %s", r, e->msg);
}

void *kvm_fx_new(size_t bytes)
{
	struct kvm *k = calloc(1, bytes);
	struct err e = { 0 };
	struct host_files host;
	int r;

	host_files_open(&host);
	r = kvm_init(k, &host, NULL, &e);
	host_files_done(&host);
	if (r < 0) {
		print_message("skipped: %s\n", e.msg);
		free(k);
		skip();
	}
	return k;
}

void kvm_fx_memory(struct kvm *k, struct memory *m, uint64_t bytes)
{
	struct err e = { 0 };

	must(memory_init(m, bytes, false, &e), &e);
	must(memory_attach(m, k, &e), &e);
}
