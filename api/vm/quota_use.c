#include "api/vm/quota_use.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_TEXT_BYTES 32

/* ---- use of the VMs ---- */

uint64_t quota_sum(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : MIN(sum, (uint64_t)INT64_MAX);
}

uint64_t quota_product(uint64_t a, uint64_t b)
{
	uint64_t r;

	return __builtin_mul_overflow(a, b, &r) ? INT64_MAX : MIN(r, (uint64_t)INT64_MAX);
}

/* A VM between the two processes of restart-process keeps its room. */
static bool takes_memory(const struct vm *vm)
{
	return vm_state_is_active(vm->state) || vm_is_starting(vm) || vm_has(vm, VM_FACT_CONTINUES);
}

/* The user for whom a VM's item counts: the definer, or for memory and vCPUs another user who has chosen their number.
 * Root's choice stays the definer's. Borrowed from d; NULL: no quota binds it. */
static const struct rights *item_user(const struct definition *d, enum quota_item i)
{
	const struct rights *author = NULL;

	if (d->nauthors && i == QUOTA_MEMORY)
		author = author_of_setting(d, "memory", (uint32_t)(d->ram_bytes >> 20));
	else if (d->nauthors && i == QUOTA_VCPUS)
		author = author_of_setting(d, "vcpus", definition_vcpus_max(d));
	return author ? author : d->rights;
}

/* Add one VM's use of the resources that the quota limits. A run counts with the size at its start, even if the
 * definition has changed since. */
static void vm_add_use(const struct vm *vm, const struct quota *q, uint64_t sum[QUOTA_ITEM_COUNT])
{
	const struct quotas *table = &vm->host->quotas;
	const struct definition *d = vm_live(vm);
	bool defined = quotas_bind(table, q, vm->def->rights);

	if (defined) {
		sum[QUOTA_VMS]++;
		sum[QUOTA_DISK] = quota_sum(sum[QUOTA_DISK], vm->counts.made_bytes);
		sum[QUOTA_SNAPSHOTS] = quota_sum(sum[QUOTA_SNAPSHOTS], vm->counts.snapshots + vm->counts.snapshot_coming);
	}
	if (!takes_memory(vm))
		return;
	sum[QUOTA_RUNNING] += defined;
	if (quotas_bind(table, q, item_user(d, QUOTA_MEMORY)))
		sum[QUOTA_MEMORY] += vm->run_size.ram_bytes ? vm->run_size.ram_bytes : d->ram_bytes;
	if (quotas_bind(table, q, item_user(d, QUOTA_VCPUS)))
		sum[QUOTA_VCPUS] += vm->run_size.vcpus ? vm->run_size.vcpus : definition_vcpus_max(d);
}

/* Add the use of new VMs, except their runs. */
static void new_add_use(const struct quota_new *what, uint64_t sum[QUOTA_ITEM_COUNT])
{
	sum[QUOTA_VMS] = quota_sum(sum[QUOTA_VMS], what->n);
	sum[QUOTA_DISK] = quota_sum(sum[QUOTA_DISK], quota_product(what->n, what->image_bytes));
	sum[QUOTA_SNAPSHOTS] = quota_sum(sum[QUOTA_SNAPSHOTS], quota_product(what->n, what->snapshots));
}

/* except, except_claim: leave these out; NULL: none. */
static void use_sum(const struct vm_host *host, const struct quota *q, const struct vm *except,
	const struct quota_claim *except_claim, uint64_t ret[QUOTA_ITEM_COUNT])
{
	memset(ret, 0, QUOTA_ITEM_COUNT * sizeof(*ret));
	if (q->kind == QUOTA_DEFAULT)
		return;
	for (size_t i = 0; i < host->nvms; i++)
		if (host->vms[i] != except)
			vm_add_use(host->vms[i], q, ret);
	for (const struct quota_claim *c = host->claims; c; c = c->next)
		if (c != except_claim && quotas_bind(&host->quotas, q, c->definer))
			new_add_use(&c->what, ret);
}

void quota_use_sum(const struct vm_host *host, const struct quota *q, uint64_t ret[QUOTA_ITEM_COUNT])
{
	use_sum(host, q, NULL, NULL, ret);
}

/* ---- checks ---- */

static const struct {
	const char *noun, *option;
	bool is_size;
	const char *first; /* the advice for the user; "": none */
} items[QUOTA_ITEM_COUNT] = {
	[QUOTA_VMS] = { "defined VMs", "--vms N", false, "" },
	[QUOTA_RUNNING] = { "running VMs", "--running N", false, "" },
	[QUOTA_MEMORY] = { "memory of running VMs", "--memory SIZE", true, "" },
	[QUOTA_VCPUS] = { "vCPUs of running VMs", "--vcpus N", false, "" },
	[QUOTA_DISK] = { "images that Cairn made", "--disk SIZE", true, "undefine a clone with --remove-all-storage, or " },
	[QUOTA_SNAPSHOTS] = { "snapshots", "--snapshots N", false, "delete some with cairn snapshot-delete, or " },
};

static const char *value_text(unsigned item, uint64_t v, char buf[SIZE_TEXT_BYTES])
{
	uint64_t mib = v / 1048576 + (v % 1048576 != 0);

	snprintf(buf, SIZE_TEXT_BYTES, items[item].is_size ? "%llu MiB" : "%llu",
		(unsigned long long)(items[item].is_size ? mib : v));
	return buf;
}

static int too_much(const struct quota *q, bool is_default, unsigned i, uint64_t used, uint64_t add, struct err *e)
{
	const char *kind = q->kind == QUOTA_GROUP ? "group" : "user";
	char limit_text[SIZE_TEXT_BYTES], used_text[SIZE_TEXT_BYTES], add_text[SIZE_TEXT_BYTES];

	return err_set(e, -EDQUOT, ERR_QUOTA, "%s %u has %s quota of %s %s, takes %s and needs %s more; %sroot can raise it "
		"with: cairn quota --%s %u %s", kind, q->id, is_default ? "the default" : "a", value_text(i, q->limits[i], limit_text),
		items[i].noun, value_text(i, used, used_text), value_text(i, add, add_text), items[i].first, kind, q->id,
		items[i].option);
}

/* The resources that one request claims. */
struct request {
	const struct vm_host *host;
	const struct rights *users[QUOTA_ITEM_COUNT]; /* for whom each item counts; NULL: no quota binds it */
	const struct vm *except; /* the VM that is to start, whose present use does not count; NULL: none */
	const struct quota_claim *except_claim; /* the claim that is to change; NULL: none */
	uint64_t add[QUOTA_ITEM_COUNT];
};

/* Check the items whose users the quota binds. The use is summed over all VMs once for each user, of whom there is
 * mostly one. */
static int check_one(const struct request *want, const struct quota *quota, struct err *e)
{
	bool is_default = quota->kind == QUOTA_DEFAULT, summed = false;
	uint64_t used[QUOTA_ITEM_COUNT];
	struct quota q = *quota;

	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++) {
		if (!want->add[i] || q.limits[i] == QUOTA_NO_LIMIT || !quotas_bind(&want->host->quotas, quota, want->users[i]))
			continue;
		if (is_default && (!summed || q.id != want->users[i]->uid)) {
			q.kind = QUOTA_USER;
			q.id = want->users[i]->uid;
			summed = false;
		}
		if (!summed)
			use_sum(want->host, &q, want->except, want->except_claim, used);
		summed = true;
		if (used[i] > q.limits[i] || want->add[i] > q.limits[i] - used[i])
			return too_much(&q, is_default, i, used[i], want->add[i], e);
	}
	return 0;
}

static int check_all(const struct request *want, struct err *e)
{
	const struct quotas *table = &want->host->quotas;
	int r = 0;

	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++)
		if (want->users[i] && table->unknown)
			return err_set(e, -EDQUOT, ERR_QUOTA, "the quotas could not be loaded: %s", table->unknown);
	for (size_t k = 0; k < table->n && !r; k++)
		r = check_one(want, &table->list[k], e);
	return r;
}

/* Return a request for a VM of that definition, without amounts yet. */
static struct request request_of(const struct vm_host *host, const struct definition *d)
{
	struct request want = { .host = host };

	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++)
		want.users[i] = item_user(d, i);
	return want;
}

static void runs_add(struct request *want, const struct definition *d, size_t n)
{
	want->add[QUOTA_RUNNING] = n;
	want->add[QUOTA_MEMORY] = n * d->ram_bytes;
	want->add[QUOTA_VCPUS] = n * definition_vcpus_max(d);
}

int quota_check_new(const struct vm_host *host, const struct definition *def, const struct quota_new *what,
	struct err *e)
{
	struct request want = request_of(host, def);

	new_add_use(what, want.add);
	if (what->runs)
		runs_add(&want, def, what->n);
	return check_all(&want, e);
}

int quota_check_more(const struct vm *vm, enum quota_item item, uint64_t more, struct err *e)
{
	struct request want = request_of(vm->host, vm->def);

	want.add[item] = more;
	return check_all(&want, e);
}

bool quota_limits(const struct vm_host *host, const struct definition *def, enum quota_item item)
{
	const struct quotas *table = &host->quotas;

	for (size_t i = 0; i < table->n; i++)
		if (table->list[i].limits[item] != QUOTA_NO_LIMIT && quotas_bind(table, &table->list[i], def->rights))
			return true;
	return false;
}

/* ---- claims ---- */

int quota_claim_new(struct vm_host *host, const struct definition *def, const struct quota_new *what,
	struct quota_claim **ret, struct err *e)
{
	struct quota_claim *c;
	int r = quota_check_new(host, def, what, e);

	if (r < 0)
		return r;
	c = must_alloc(calloc(1, sizeof(*c)));
	*c = (struct quota_claim){ .next = host->claims, .host = host, .what = *what };
	if (rights_copy(def->rights, &c->definer) < 0)
		abort(); /* otherwise the VMs would count for nobody until they are defined */
	host->claims = c;
	*ret = c;
	return 0;
}

int quota_claim_change(struct quota_claim *c, uint64_t image_bytes, uint64_t snapshots, struct err *e)
{
	struct request want = { .host = c->host, .except_claim = c };
	struct quota_new what = { .n = c->what.n, .image_bytes = image_bytes, .snapshots = snapshots };
	int r;

	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++)
		want.users[i] = c->definer; /* no run is claimed */
	new_add_use(&what, want.add);
	r = check_all(&want, e);
	if (!r)
		c->what = what;
	return r;
}

void quota_claim_take(struct quota_claim *c, struct vm *vm)
{
	c->what.n--;
	vm->counts.made_bytes = c->what.image_bytes;
	vm->counts.snapshots = c->what.snapshots;
}

void quota_claim_free(struct quota_claim *c)
{
	struct quota_claim **at;

	if (!c)
		return;
	for (at = &c->host->claims; *at != c; at = &(*at)->next)
		;
	*at = c->next;
	free(c->definer);
	free(c);
}

/* ---- snapshots ---- */

void quota_snapshots_set(struct vm *vm, uint64_t n)
{
	if (vm->counts.snapshot_begun || vm->counts.snapshots == n)
		return;
	vm->counts.snapshots = n;
	vm_save(vm);
}

/* ---- the observer ---- */

/* Whether restart-process continues the VM with no more than it had: a quota that was lowered must not stop it. */
static bool only_continues(const struct vm *vm)
{
	return vm_has(vm, VM_FACT_CONTINUES) && vm_live(vm)->ram_bytes <= vm->run_size.ram_bytes &&
		definition_vcpus_max(vm_live(vm)) <= vm->run_size.vcpus;
}

static int start_check(const struct vm *vm, struct err *e)
{
	struct request want = request_of(vm->host, vm_live(vm));

	if (only_continues(vm))
		return 0;
	want.except = vm;
	runs_add(&want, vm_live(vm), 1);
	return check_all(&want, e);
}

/* Check again, because a start may wait, and the VM may be redefined meanwhile. */
static int start_add(struct vm *vm, struct config *c, struct err *e)
{
	(void)c;
	return start_check(vm, e);
}

static void state_changed(struct vm *vm, enum vm_trigger t)
{
	const struct definition *d = vm_live(vm);
	bool begins = t == VM_ASK_START || t == VM_ASK_START_PAUSED || !vm->run_size.ram_bytes;

	if (vm_state_is_active(vm->state) && begins)
		vm->run_size = (struct vm_run_size){ d->ram_bytes, definition_vcpus_max(d) };
	else if (!takes_memory(vm))
		vm->run_size = (struct vm_run_size){ 0 };
}

static void state_put(const struct vm *vm, struct json_object *state)
{
	if (vm->counts.made_bytes)
		js_put_uint(state, "made_bytes", vm->counts.made_bytes);
	if (vm->counts.snapshots)
		js_put_uint(state, "snapshots", vm->counts.snapshots);
	if (!vm->run_size.ram_bytes)
		return;
	js_put_uint(state, "run_memory", vm->run_size.ram_bytes);
	js_put_uint(state, "run_vcpus", vm->run_size.vcpus);
}

static void state_load(struct vm *vm, struct json_object *state)
{
	int64_t bytes = js_get_int(state, "run_memory", 0), vcpus = js_get_int(state, "run_vcpus", 0);

	vm->counts.made_bytes = (uint64_t)MAX(js_get_int(state, "made_bytes", 0), 0);
	vm->counts.snapshots = (uint64_t)MIN(MAX(js_get_int(state, "snapshots", 0), 0), UINT32_MAX);
	if (bytes > 0 && vcpus > 0)
		vm->run_size = (struct vm_run_size){ (uint64_t)bytes, (uint32_t)vcpus };
}

const struct vm_observer quota_observer = { .state_put = state_put, .state_load = state_load,
	.state_changed = state_changed, .start_check = start_check, .start_add = start_add };
