/* one_vm: a host of VMs with one VM and a store in a folder of its own, without a daemon. */
#ifndef CAIRN_TESTS_ONE_VM_H
#define CAIRN_TESTS_ONE_VM_H

#include "api/definition/definition.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "tests/unit/tmp.h"

#include <fcntl.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ONE_VM_DIR_BYTES 96

/* Fill a host that is zeros but for its sink. dir: gets the folder's path. definition: JSON.
 * Returns the VM, which the host owns; one_vm_close() frees it. */
static inline struct vm *one_vm_open(struct vm_host *host, char dir[ONE_VM_DIR_BYTES], const char *definition,
	const struct vm_observer *const *observers)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct definition *def;
	struct vm *vm;
	struct err e;

	log_set_fd(open("/dev/null", O_WRONLY));
	snprintf(dir, ONE_VM_DIR_BYTES, "%s/cairn-test-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(dir));
	assert_int_equal(loop_new(16, &host->loop, &e), 0);
	assert_int_equal(store_open(dir, NULL, &host->store, &e), 0);
	assert_int_equal(js_parse(definition, strlen(definition), "vm", &o, &e), 0);
	assert_int_equal(definition_parse(o, NULL, &def, &e), 0);
	host->observers = observers;
	assert_int_equal(vm_add(host, def, &vm), 0);
	return vm;
}

/* Free what one_vm_open() has made, and remove the folder. Returns the status of that. */
static inline int one_vm_close(struct vm_host *host, const char *dir)
{
	char command[ONE_VM_DIR_BYTES + 8];

	vm_free_all(host);
	store_close(host->store);
	loop_free(host->loop);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

#endif
