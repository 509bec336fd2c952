/* vm: the queue of events from devices and vCPUs. A guest that floods it cannot make the VM lose the event for which
 * its vCPUs have stopped: such a VM would stand still for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vmm/machine/vm.c" /* for the queue, which is static */

static struct vm *vm_with_queue(void)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	assert_non_null(vm);
	vm->queue = calloc(QUEUE_MAX, sizeof(*vm->queue));
	assert_non_null(vm->queue);
	pthread_mutex_init(&vm->lock, NULL);
	vm->posted = true; /* no loop runs here */
	return vm;
}

static void vm_with_queue_free(struct vm *vm)
{
	pthread_mutex_destroy(&vm->lock);
	free(vm->queue);
	free(vm);
}

static void test_flood_leaves_room_for_events_that_stop(void **state)
{
	static const struct dev_event floods[] = {
		{ .kind = DEV_EVENT_PANICKED, .value = PVPANIC_CRASH_LOADED },
		{ .kind = DEV_EVENT_NEEDS_RESET, .device = "vda", .detail = "a chain of descriptors loops" },
		{ .kind = DEV_EVENT_IO_ERROR, .device = "vda" },
		{ .kind = DEV_EVENT_LINK_LOST, .device = "net0" },
		{ .kind = DEV_EVENT_TRAY, .device = "sda" },
	}, stops[] = {
		{ .kind = DEV_EVENT_RESET },
		{ .kind = DEV_EVENT_POWEROFF },
		{ .kind = DEV_EVENT_PANICKED, .value = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED },
		{ .kind = DEV_EVENT_DEBUG_EXIT },
		{ .kind = DEV_EVENT_IO_ERROR, .device = "vda", .stop = true },
		{ .kind = DEV_EVENT_IO_ERROR, .device = "vdb", .stop = true, .corrupt = true },
		{ .kind = DEV_EVENT_WATCHDOG },
	};

	(void)state;
	for (size_t f = 0; f < ARRAY_SIZE(floods) + ARRAY_SIZE(stops); f++) {
		struct vm *vm = vm_with_queue();
		size_t flooding = f - ARRAY_SIZE(floods); /* the stop that floods, if one does */

		for (unsigned i = 0; i < 2 * QUEUE_MAX; i++)
			listener_event(vm, f < ARRAY_SIZE(floods) ? &floods[f] : &stops[flooding]);
		for (size_t i = 0; i < ARRAY_SIZE(stops); i++) {
			if (i == flooding)
				continue;
			listener_event(vm, &stops[i]);
			assert_int_equal(vm->queue[vm->nqueued - 1].ev.kind, stops[i].kind);
			assert_int_equal(vm->queue[vm->nqueued - 1].ev.value, stops[i].value);
		}
		listener_fault(vm, 0, VM_REASON_TRIPLE_FAULT, "vCPU 0");
		assert_true(vm->queue[vm->nqueued - 1].is_fault);
		vm_with_queue_free(vm);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flood_leaves_room_for_events_that_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
