/* pin_release: what the VMs' processes are told of pins that wait for a further fork, and when. */
#include "api/jobs/pin_release.h"
#include "api/vm/pins.h"
#include "api/vm/vm_process.h"
#include "tests/unit/api/policy/one_vm.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define IMAGE "/vda.qcow2"
#define DEFINITION(name) "{\"name\":\"" name "\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/kernel\"}," \
	"\"disks\":[{\"path\":\"" IMAGE "\",\"format\":\"qcow2\"}]}"
#define BEGIN_S 1000000
#define WAIT_S 60
#define PID 4711

static const uint8_t A[VM_PIN_ID_BYTES] = { 0xaa, 1 };
static const struct vm_observer *const observers[] = { &pin_release_observer, NULL };

typedef void answered_fn(void *opaque, int r, const struct vm_answer *a, const struct err *e);

struct fixture {
	char dir[ONE_VM_DIR_BYTES];
	struct vm_host host;
	struct vm *vm;
	/* The last request, and how many of each type there were. */
	unsigned idle_told, asked;
	struct vm_pins pins;
	answered_fn *done;
	void *opaque;
};

static struct fixture *f;
static time_t fake_s; /* 0: the host's clock */

int __real_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts);
void __wrap_vm_process_request(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len, int fd,
	uint64_t timeout_ns, answered_fn *done, void *opaque);
pid_t __wrap_vm_process_pid(const struct vm_process *p);
bool __wrap_vm_process_knows(const struct vm_process *p, enum vm_known what);
unsigned __wrap_vm_process_version(const struct vm_process *p);

int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	if (!fake_s || (id != CLOCK_MONOTONIC && id != CLOCK_REALTIME))
		return __real_clock_gettime(id, ts);
	*ts = (struct timespec){ .tv_sec = fake_s };
	return 0;
}

void __wrap_vm_process_request(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len, int fd,
	uint64_t timeout_ns, answered_fn *done, void *opaque)
{
	(void)p, (void)fd, (void)timeout_ns;
	assert_int_equal(len, sizeof(f->pins));
	memcpy(&f->pins, body, len);
	f->idle_told += type == VM_MSG_PINS_IDLE;
	f->asked += type == VM_MSG_PINS_DELETE;
	f->done = done;
	f->opaque = opaque;
}

pid_t __wrap_vm_process_pid(const struct vm_process *p)
{
	(void)p;
	return PID;
}

bool __wrap_vm_process_knows(const struct vm_process *p, enum vm_known what)
{
	(void)p, (void)what;
	return true;
}

unsigned __wrap_vm_process_version(const struct vm_process *p)
{
	(void)p;
	return VM_MSG_VERSION;
}

static int setup(void **state)
{
	(void)state;
	f = calloc(1, sizeof(*f));
	fake_s = BEGIN_S;
	f->vm = one_vm_open(&f->host, f->dir, DEFINITION("vm1"), observers);
	f->host.pins_wait_ns = WAIT_S * 1000000000ULL;
	pins_load(&f->host);
	pins_set_complete(&f->host, true);
	f->vm->proc = (struct vm_process *)f;
	f->vm->state = VM_RUNNING;
	return 0;
}

static int teardown(void **state)
{
	int r;

	(void)state;
	fake_s = 0;
	f->vm->proc = NULL;
	f->vm->state = VM_SHUT_OFF;
	loop_timer_free(f->host.pins_timer);
	pins_free(f->host.pins);
	r = one_vm_close(&f->host, f->dir);
	free(f);
	return r;
}

/* Let the last clone go. */
static void clone_goes(void)
{
	pins_add(&f->host, "/c1", IMAGE, A);
	pins_remove(&f->host, "/c1");
	pin_release_due(&f->host);
}

static void answer(int r)
{
	static const struct err e = { .msg = "no room" };
	answered_fn *done = f->done;

	f->done = NULL;
	done(f->opaque, r, NULL, r < 0 ? &e : NULL);
}

/* Let seconds pass, and answer each message to the process with r. Returns the number of these messages. */
static unsigned seconds(unsigned n, int r)
{
	unsigned before = f->idle_told;

	for (unsigned i = 0; i < n; i++) {
		fake_s++;
		loop_run_once(f->host.loop, 0);
		if (f->done)
			answer(r);
	}
	return f->idle_told - before;
}

static bool told_of(unsigned n)
{
	return f->pins.n == n && (!n || !memcmp(f->pins.ids[0], A, sizeof(A)));
}

static void test_process_is_told_of_a_pin_that_waits(void **state)
{
	(void)state;
	clone_goes();
	assert_true(f->idle_told == 1 && told_of(1));
	answer(0);
	assert_int_equal(seconds(WAIT_S - 2, 0), 0);
	assert_int_equal(f->asked, 0);
	assert_int_equal(seconds(2, 0), 1);
	assert_int_equal(f->asked, 1);
	assert_true(pins_idle_until(&f->host) == 0 && told_of(1)); /* to delete it */
}

/* Otherwise the pin would prevent what the user asks for. */
static void test_process_that_was_not_reached_is_told_again(void **state)
{
	(void)state;
	clone_goes();
	answer(-EAGAIN);
	assert_int_equal(seconds(5, -EAGAIN), 5);
	assert_true(told_of(1));
	assert_int_equal(seconds(5, 0), 1);
}

/* Otherwise the process would delete a pin that an overlay reads. */
static void test_process_that_was_not_reached_is_told_again_that_no_pin_waits(void **state)
{
	(void)state;
	clone_goes();
	answer(0);
	pins_add_found(&f->host, "/copy", IMAGE, A);
	pins_store(&f->host, NULL);
	assert_true(f->idle_told == 2 && told_of(0));
	answer(-EAGAIN);
	assert_int_equal(seconds(5, -EAGAIN), 5);
	assert_true(told_of(0));
	assert_int_equal(seconds(5, 0), 1);
	assert_int_equal(seconds(2 * WAIT_S, 0), 0);
	assert_int_equal(f->asked, 0);
}

static void test_nobody_is_told_again_of_a_process_that_has_ended(void **state)
{
	(void)state;
	clone_goes();
	f->vm->proc = NULL;
	f->vm->state = VM_SHUT_OFF;
	answer(-ESRCH);
	assert_int_equal(seconds(2 * WAIT_S, 0), 0);
	assert_int_equal(f->asked, 0);
}

/* Definitions may share an image. Only one of the VMs can run. */
static void test_pin_waits_although_another_vm_has_the_image(void **state)
{
	struct definition *def;
	struct vm *other;
	struct err e;

	(void)state;
	for (unsigned i = 0; i < 2; i++) { /* a name before that of the VM that runs, and one after it */
		CLEANUP_JS struct json_object *o = NULL;
		const char *text = i ? DEFINITION("vm2") : DEFINITION("vm0");

		assert_int_equal(js_parse(text, strlen(text), "vm", &o, &e), 0);
		assert_int_equal(definition_parse(o, NULL, &def, &e), 0);
		assert_int_equal(vm_add(&f->host, def, &other), 0);
	}
	clone_goes();
	assert_true(f->idle_told == 1 && told_of(1));
	answer(0);
	pins_store(&f->host, NULL);
	assert_true(f->idle_told == 2 && told_of(1));
	answer(0);
	assert_int_equal(seconds(WAIT_S - 2, 0), 0);
	assert_int_equal(f->asked, 0);
	/* Without a process, no fork can share the pin any more. */
	f->vm->proc = NULL;
	f->vm->state = VM_SHUT_OFF;
	pins_store(&f->host, NULL);
	assert_int_equal(pins_idle_until(&f->host), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_process_is_told_of_a_pin_that_waits),
		TEST(test_process_that_was_not_reached_is_told_again),
		TEST(test_process_that_was_not_reached_is_told_again_that_no_pin_waits),
		TEST(test_nobody_is_told_again_of_a_process_that_has_ended),
		TEST(test_pin_waits_although_another_vm_has_the_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
