/* Handlers of vm-set-memory (the target of a running VM's balloon, and how often its guest sends statistics), of
 * vm-reclaim and of vm-calc-dirty-rate. */
#include "api/commands/command.h"
#include "api/policy/balancer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>

#define SET_TIMEOUT_NS (20 * 1000000000ULL)
#define DIRTY_RATE_TIMEOUT_NS (10 * 1000000000ULL)
#define RECLAIM_TIMEOUT_NS (120 * 1000000000ULL)

static void set_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;

	(void)a;
	if (!r && js_get(c->args, "target"))
		balancer_hold_memory(c->vm);
	call_done(c, r, e);
}

static int process_check(const struct vm *vm, struct err *e)
{
	const char *name = vm->def->name;
	int r = vm_live_check(vm, e);

	if (r < 0)
		return r;
	if (!vm_live(vm)->balloon)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "VM '%s' runs without a balloon, so its memory cannot change while it "
			"runs; set \"balloon\": true (cairn edit %s), shut the VM down and start it", name, shell_word(name).s);
	return vm_process_knows(vm->proc, VM_KNOWS_BALLOON_SET) ? 0 : vm_compat_refuse(name, e);
}

static int wish_check(const struct call *c, const struct vm_balloon_set *body, int64_t target, int64_t period, struct err *e)
{
	uint64_t all = vm_live(c->vm)->ram_bytes;

	if (!body->set_target && !body->set_period)
		return err_set(e, -EINVAL, ERR_INVALID, "nothing to change: give target or period");
	if (body->set_target && (target < 1 || (uint64_t)target > all))
		return err_set(e, -EINVAL, ERR_INVALID, "target: VM '%.200s' has %llu KiB of memory; a balloon can only leave it 1 byte up "
			"to that; `cairn setmaxmem --config` changes the memory for the next start", c->vm->def->name,
			(unsigned long long)(all / KIB));
	if (body->set_period && (period < 0 || period > VM_BALLOON_PERIOD_MAX_S))
		return err_set(e, -EINVAL, ERR_INVALID, "period: give 0 (no statistics) to %d seconds", VM_BALLOON_PERIOD_MAX_S);
	return 0;
}

void command_vm_set_memory(struct call *c)
{
	int64_t target = js_get_int(c->args, "target", 0), period = js_get_int(c->args, "period", 0);
	struct vm_balloon_set body = { .set_target = js_get(c->args, "target") != NULL,
		.set_period = js_get(c->args, "period") != NULL };
	struct err e;
	int r = process_check(c->vm, &e);

	if (!r)
		r = wish_check(c, &body, target, period, &e);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	body.target_bytes = (uint64_t)target;
	body.period_s = (uint32_t)period;
	vm_process_request(c->vm->proc, VM_MSG_BALLOON_SET, &body, sizeof(body), -1, SET_TIMEOUT_NS, set_done, c);
}

static void reclaim_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;
	struct json_object *o;

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	o = json_object_new_object();
	js_put_uint(o, "freed", a->snapshot ? a->snapshot->ram_bytes_shared : 0);
	call_return(c, o);
}

void command_vm_reclaim(struct call *c)
{
	struct err e;

	if (c->vm->proc && vm_process_knows(c->vm->proc, VM_KNOWS_RECLAIM)) {
		vm_process_request(c->vm->proc, VM_MSG_RECLAIM, NULL, 0, -1, RECLAIM_TIMEOUT_NS, reclaim_done, c);
	} else {
		vm_compat_refuse(c->vm->def->name, &e);
		call_fail(c, &e);
	}
}

static int dirty_rate_check(const struct call *c, const char *key, int64_t seconds, int64_t pages, struct err *e)
{
	if (seconds < 1 || seconds > VM_DIRTY_RATE_SECONDS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: give 1 to %d seconds", key, VM_DIRTY_RATE_SECONDS_MAX);
	if (pages < VM_DIRTY_RATE_PAGES_MIN || pages > VM_DIRTY_RATE_PAGES_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "sample-pages: give %d to %d pages of each GiB", VM_DIRTY_RATE_PAGES_MIN,
			VM_DIRTY_RATE_PAGES_MAX);
	return vm_compat_check_live(c->vm, VM_KNOWS_DIRTY_RATE, e);
}

void command_calc_dirty_rate(struct call *c, const char *seconds)
{
	int64_t s = js_get_int(c->args, seconds, 1), pages = js_get_int(c->args, "sample-pages", VM_DIRTY_RATE_PAGES);
	struct vm_dirty_rate_ask ask = { .seconds = (uint32_t)s, .pages_per_gib = (uint32_t)pages };
	struct err e;

	if (dirty_rate_check(c, seconds, s, pages, &e) < 0)
		call_fail(c, &e);
	else
		vm_process_request(c->vm->proc, VM_MSG_DIRTY_RATE, &ask, sizeof(ask), -1, DIRTY_RATE_TIMEOUT_NS, command_answered, c);
}

void command_vm_calc_dirty_rate(struct call *c)
{
	command_calc_dirty_rate(c, "seconds");
}
