/* fixture_tracker: memory that a fault tracker (snapshot/fault_tracker.h) watches. */
#ifndef CAIRN_TESTS_FIXTURE_TRACKER_H
#define CAIRN_TESTS_FIXTURE_TRACKER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/ram_view.h"
#include "snapshot/uffd_open.h"

#define RAM_BYTES (8 * MIB + 4096)
#define BLOCKS DIV_ROUND_UP(RAM_BYTES, VMSTATE_BLOCK_BYTES)
#define VIEW_OFFSET (2 * MIB) /* of the memory in a clone's base file */
#define VIEW_DATA (4 * MIB)   /* the base file has data from here on, and a hole before */

struct tracker_fixture {
	struct uffd uffd;
	struct fault_tracker_config c;
	struct ram_view view;
	struct fault_tracker *t;
	struct bitmap dirty, all;
	uint8_t *before, buf[VMSTATE_BLOCK_BYTES];
};

/* For cmocka. */
int tracker_setup(void **state);
int tracker_setup_view(void **state); /* memory is a clone's private view of a base file */
int tracker_teardown(void **state);
/* Start the tracker, whose memory is protected only when it is armed. Skips the test where the host cannot protect. */
void tracker_begin_unarmed(struct tracker_fixture *f);
void tracker_begin(struct tracker_fixture *f);
void tracker_reset_dirty(struct tracker_fixture *f);
/* Save all wanted blocks, one each delay_us: each has its content in f->before and comes once. */
void tracker_save_and_compare(struct tracker_fixture *f, const struct bitmap *wanted, unsigned delay_us);

#endif
