/* The watchdog: registers, the unlock sequence, stages, which time counts. */
#include "fixture.h"

#include "devices/legacy/i6300esb.h"

#include <stdlib.h>
#include <unistd.h>

#define SLOT 1
#define CONFIG 0x60
#define LOCK 0x68
#define RELOAD 0x0c
#define TICK_NS 983040ULL
#define MS 1000000ULL

struct bench {
	struct fixture f;
	struct device *d;
	uint64_t bar;
};

static void begin(struct bench *b)
{
	fx_init(&b->f);
	assert_int_equal(i6300esb_new(&b->f.host, b->f.pci, -1, &b->d, NULL), 0);
	b->bar = fx_cfg_read(&b->f, SLOT, 0x10, 4) & ~0xfu;
}

static void end(struct bench *b)
{
	b->d->ops->free(b->d);
	fx_done(&b->f);
}

static void unlock(struct bench *b)
{
	fx_write(&b->f, b->bar + RELOAD, 2, 0x80);
	fx_write(&b->f, b->bar + RELOAD, 2, 0x86);
}

static void reload(struct bench *b, uint64_t v)
{
	unlock(b);
	fx_write(&b->f, b->bar + RELOAD, 2, v);
}

static void set_stages(struct bench *b, uint64_t ms)
{
	for (unsigned i = 0; i < 2; i++) {
		unlock(b);
		fx_write(&b->f, b->bar + 4 * i, 4, ms * MS / TICK_NS + 1);
	}
}

static unsigned bites(struct bench *b)
{
	return fx_count_events(&b->f, DEV_EVENT_WATCHDOG);
}

/* Run the loop for this long. */
static void let_pass(struct bench *b, uint64_t ms)
{
	uint64_t until = loop_now_ns() + ms * MS;

	while (loop_now_ns() < until) {
		fx_run(&b->f, 1);
		usleep(1000);
	}
}

static void wait_for_bite(struct bench *b)
{
	while (!bites(b)) {
		fx_run(&b->f, 1);
		usleep(500);
	}
	assert_int_equal(bites(b), 1);
}

static void identifies_as_6300esb(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, 0, 4), 0x25ab8086);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, CONFIG, 2), 0);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, LOCK, 1), 0);
	assert_int_equal(fx_read(&b.f, b.bar, 4), 0xfffff);
	assert_int_equal(fx_read(&b.f, b.bar, 8), 0x000fffff000fffffULL);
	assert_int_equal(fx_read(&b.f, b.bar + 2, 2), 0xf);
	assert_int_equal(fx_read(&b.f, b.bar + 0x10, 4), 0);
	fx_state_test(&b.f, b.d, 300);
	end(&b);
}

/* Writes without the unlock sequence, or after a broken one, have no effect. */
static void unlock_sequence_allows_one_write(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	fx_write(&b.f, b.bar, 4, 5);
	fx_write(&b.f, b.bar + RELOAD, 2, 0x86);
	fx_write(&b.f, b.bar, 4, 5);
	fx_write(&b.f, b.bar + RELOAD, 2, 0x80);
	fx_write(&b.f, b.bar, 4, 5);
	fx_write(&b.f, b.bar + RELOAD, 2, 0x86);
	fx_write(&b.f, b.bar, 4, 5);
	assert_int_equal(fx_read(&b.f, b.bar, 4), 0xfffff);
	unlock(&b);
	fx_write(&b.f, b.bar, 4, 0xfff12345);
	assert_int_equal(fx_read(&b.f, b.bar, 4), 0x12345);
	/* The sequence allows one write. */
	fx_write(&b.f, b.bar + 4, 4, 5);
	unlock(&b);
	fx_write(&b.f, b.bar + 4, 2, 5);
	assert_int_equal(fx_read(&b.f, b.bar + 4, 4), 0xfffff);
	end(&b);
}

static void locked_configuration_is_read_only(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	fx_cfg_write(&b.f, SLOT, CONFIG, 4, 0xffffffff);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, CONFIG, 4), 0x27);
	fx_cfg_write(&b.f, SLOT, CONFIG + 2, 2, 0xffff);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, CONFIG + 1, 1), 0);
	fx_cfg_write(&b.f, SLOT, LOCK, 1, 0xff);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, LOCK, 2), 7);
	/* Locked: the guest cannot stop it any more. */
	fx_cfg_write(&b.f, SLOT, LOCK, 1, 0);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, LOCK, 1), 7);
	b.d->ops->reset(b.d);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, LOCK, 1), 0);
	end(&b);
}

#define STAGES_MS 200 /* sum of both stages */

/* Returns false when this thread was delayed for so long that the watchdog may have fired. */
static bool looked_after(struct bench *b)
{
	uint64_t at = loop_now_ns();

	set_stages(b, STAGES_MS / 2);
	fx_cfg_write(&b->f, SLOT, LOCK, 1, 2);
	for (unsigned i = 0; i < 4; i++) {
		let_pass(b, 70);
		if (loop_now_ns() - at >= STAGES_MS * MS)
			return false;
		at = loop_now_ns();
		reload(b, 0x100);
	}
	return true;
}

static void fires_once(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	while (!looked_after(&b)) {
		end(&b);
		begin(&b);
	}
	assert_int_equal(bites(&b), 0);
	wait_for_bite(&b);
	assert_int_equal(fx_read(&b.f, b.bar + RELOAD, 2), 0x1200);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, LOCK, 1), 0);
	b.d->ops->reset(b.d); /* the value that a guest reads after its reboot */
	assert_int_equal(fx_read(&b.f, b.bar + RELOAD, 2), 0x1200);
	reload(&b, 0x200);
	assert_int_equal(fx_read(&b.f, b.bar + RELOAD, 2), 0);
	let_pass(&b, 30);
	assert_int_equal(bites(&b), 1);
	end(&b);
}

static void does_not_fire_when_stopped(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	set_stages(&b, 1);
	fx_cfg_write(&b.f, SLOT, LOCK, 1, 2);
	fx_cfg_write(&b.f, SLOT, LOCK, 1, 0);
	let_pass(&b, 40);
	/* Nor when its output is disabled. */
	fx_cfg_write(&b.f, SLOT, CONFIG, 2, 0x20);
	fx_cfg_write(&b.f, SLOT, LOCK, 1, 2);
	let_pass(&b, 40);
	assert_int_equal(bites(&b), 0);
	end(&b);
}

/* Check that the watchdog does not fire before both stages have passed. ran_ns: time that it has
 * already run. */
static void resume_for_a_bit(struct bench *b, uint64_t ran_ns)
{
	uint64_t at = loop_now_ns();

	b->d->ops->resume(b->d);
	let_pass(b, STAGES_MS / 2 + 20);
	assert_true(!bites(b) || ran_ns + loop_now_ns() - at >= STAGES_MS * MS);
}

static void only_running_time_counts(void **state)
{
	struct fx_state early;
	struct bench b;
	uint64_t at, ran;

	(void)state;
	begin(&b);
	set_stages(&b, STAGES_MS / 2);
	at = loop_now_ns();
	fx_cfg_write(&b.f, SLOT, LOCK, 1, 2);
	fx_run(&b.f, 2);
	b.d->ops->pause(b.d);
	ran = loop_now_ns() - at;
	fx_save(b.d, &early);
	let_pass(&b, STAGES_MS + 50);
	assert_int_equal(bites(&b), 0);
	resume_for_a_bit(&b, ran);
	wait_for_bite(&b);
	/* Load a state in which it was counting. */
	b.d->ops->pause(b.d);
	b.d->ops->reset(b.d);
	assert_int_equal(fx_load(b.d, &early), 0);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, LOCK, 1), 2);
	b.f.nevents = 0;
	resume_for_a_bit(&b, ran);
	wait_for_bite(&b);
	free(early.buf);
	end(&b);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(identifies_as_6300esb),
		cmocka_unit_test(unlock_sequence_allows_one_write),
		cmocka_unit_test(locked_configuration_is_read_only),
		cmocka_unit_test(fires_once),
		cmocka_unit_test(does_not_fire_when_stopped),
		cmocka_unit_test(only_running_time_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
