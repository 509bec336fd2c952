/* fuzz_scsi: libFuzzer target for the commands of the SCSI controller: a disk of 1 MiB and a CD drive, over the raw
 * format on memfds. An input is a list of steps: commands with their data, task management, pauses with a saved state
 * that must load and be the same again, limits, changes of the medium, buffers for events, and a second disk that
 * comes and goes. */
#include "tests/fuzz/fuzz_api.h"
#include "tests/fuzz/fuzz_disk.h"
#include "tests/unit/devices/fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/block.h"
#include "devices/virtio/virtio_scsi.h"

#include <string.h>
#include <unistd.h>

#define SLOT 3
#define DISK_BYTES (1u << 20)
#define STEPS_MAX 200u
#define RING_SIZE 256u
#define REQUEST_BYTES 51
#define RESPONSE_BYTES 108
#define DATA_MAX 16384u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct run {
	const uint8_t *at;
	size_t left;
	struct fixture f;
	struct device *dev;
	struct drv d;
	struct block *disk, *cd[2], *more;
	int more_target; /* -1: it is not there */
	unsigned medium;
	uint64_t request, response, data, control;
};

static uint64_t take(struct run *x, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && x->left; i++, x->left--)
		v |= (uint64_t)*x->at++ << 8 * i;
	return v;
}

static void take_into(struct run *x, void *buf, size_t max)
{
	size_t n = MIN(max, x->left);

	memcpy(buf, x->at, n);
	x->at += n;
	x->left -= n;
}

static void machine_make(struct run *x)
{
	uint8_t how = (uint8_t)take(x, 1);
	struct virtio_scsi_disk disks[2] = {
		{ .id = "sda", .serial = "CAIRN-0001", .wwn = 5, .logical_bytes = how & 1 ? 4096 : 512,
			.detect_zeroes = how & 2 ? BLOCK_ZEROES_UNMAP : BLOCK_ZEROES_OFF, .no_discard = how & 4 },
		{ .id = "sdb", .cdrom = true } };
	struct virtio_scsi_config c = { .name = "scsi0", .disks = disks, .ndisks = 2, .queue_size = RING_SIZE, .slot = SLOT };

	fx_init(&x->f);
	disks[0].loop = disks[1].loop = x->f.host.loop;
	disks[0].block = x->disk = fuzz_disk_open(x->f.host.loop, DISK_BYTES, false);
	disks[1].block = x->cd[0] = fuzz_disk_open(x->f.host.loop, DISK_BYTES, true);
	x->cd[1] = fuzz_disk_open(x->f.host.loop, how & 8 ? 0 : 5 * 2048, true);
	x->more = fuzz_disk_open(x->f.host.loop, DISK_BYTES, false);
	x->more_target = -1;
	must(!virtio_scsi_new(&x->f.host, x->f.pci, &c, &x->dev, NULL));
	drv_init(&x->d, &x->f, SLOT, ~0ULL, true);
	for (unsigned q = 0; q < 3; q++)
		drv_queue_setup(&x->d, q, RING_SIZE);
	drv_ok(&x->d);
	x->request = fx_alloc(&x->f, 4096, 4096);
	x->response = fx_alloc(&x->f, 4096, 4096);
	x->control = fx_alloc(&x->f, 4096, 4096);
	x->data = fx_alloc(&x->f, DATA_MAX, 4096);
}

static void drain(struct run *x)
{
	for (unsigned i = 0; i < 8; i++)
		fx_run(&x->f, 1);
	while (block_in_flight(x->disk) || block_in_flight(x->cd[0]) || block_in_flight(x->cd[1]) || block_in_flight(x->more))
		loop_run_once(x->f.host.loop, 1000000);
}

/* Put a command: its memory is the same for all, so a command may also see another one's data. */
static void command(struct run *x)
{
	uint8_t how = (uint8_t)take(x, 1), *r = fx_ram(&x->f, x->request);
	uint32_t n = (uint32_t)take(x, 2) % DATA_MAX;
	struct drv_sg sg[4] = { { x->request, REQUEST_BYTES, false } };
	unsigned nsg = 1;

	memset(r, 0, REQUEST_BYTES);
	r[0] = how & 0x80 ? (uint8_t)take(x, 1) : 1;
	r[1] = how & 128 && x->more_target >= 0 ? (uint8_t)x->more_target : how & 1;
	r[3] = how & 0x40 ? 1 : 0;
	r[8] = how;
	take_into(x, r + 19, 16);
	if (how & 2)
		take_into(x, fx_ram(&x->f, x->data), MIN(n, 64u));
	if (n && how & 2)
		sg[nsg++] = (struct drv_sg){ x->data, n, false };
	sg[nsg++] = (struct drv_sg){ x->response, RESPONSE_BYTES - (how & 4 && how & 8), true };
	if (n && how & 16)
		sg[nsg++] = (struct drv_sg){ x->data, n, true };
	drv_add(&x->d.q[2], sg, nsg, how & 32);
	drv_kick(&x->d.q[2]);
}

static void task_management(struct run *x)
{
	struct drv_sg sg[2] = { { x->control, 24, false }, { x->control + 32, 5, true } };
	uint8_t *m = fx_ram(&x->f, x->control);

	memset(m, 0, 24);
	m[0] = (uint8_t)take(x, 1) % 4;
	m[4] = (uint8_t)take(x, 1) % 9;
	m[8] = 1;
	m[9] = (uint8_t)take(x, 1) % 8;
	m[16] = (uint8_t)take(x, 1);
	drv_add(&x->d.q[0], sg, 2, false);
	drv_kick(&x->d.q[0]);
}

static void state_check(struct run *x)
{
	struct fx_state first, second;

	drain(x);
	x->dev->ops->pause(x->dev);
	fx_save(x->dev, &first);
	must(!fx_load(x->dev, &first));
	fx_save(x->dev, &second);
	must(first.len == second.len && !memcmp(first.buf, second.buf, first.len));
	x->dev->ops->resume(x->dev);
	free(first.buf);
	free(second.buf);
}

/* Commands may wait for a limit, but none is in flight: the loop of the fuzzer would have to end them. */
static void plug_or_unplug(struct run *x)
{
	struct virtio_scsi_disk d = { .id = "sdc", .block = x->more, .loop = x->f.host.loop, .limits.iops[0].rate = take(x, 1) & 1 };
	unsigned target;
	bool paused = take(x, 1) & 1;

	drain(x);
	if (paused)
		x->dev->ops->pause(x->dev);
	if (x->more_target < 0) {
		must(!virtio_scsi_plug(x->dev, &d, &target, NULL));
		x->more_target = (int)target;
	} else {
		must(!virtio_scsi_hold(x->dev, (unsigned)x->more_target, false));
		virtio_scsi_unplug(x->dev, (unsigned)x->more_target);
		x->more_target = -1;
	}
	if (paused)
		x->dev->ops->resume(x->dev);
}

static void event_buffer(struct run *x)
{
	struct drv_sg sg = { x->control + 64, 15 + (uint32_t)take(x, 1) % 32, true };

	drv_add(&x->d.q[1], &sg, 1, false);
	drv_kick(&x->d.q[1]);
}

static void step(struct run *x)
{
	unsigned what = (unsigned)take(x, 1) % 18;

	if (what < 9) {
		command(x);
	} else if (what < 12) {
		fx_run(&x->f, 1);
	} else if (what == 12) {
		task_management(x);
	} else if (what == 13) {
		state_check(x);
	} else if (what == 16) {
		plug_or_unplug(x);
	} else if (what == 17) {
		event_buffer(x);
	} else if (what == 14) {
		virtio_scsi_set_limits(x->dev, take(x, 1) & 1, &(struct virtio_blk_limits){ .iops[0].rate = take(x, 1) * 100000 });
	} else {
		drain(x);
		x->medium++;
		must(!virtio_scsi_set_medium(x->dev, 1, x->cd[x->medium % 2], x->medium, NULL));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct run x = { .at = data, .left = len };

	machine_make(&x);
	for (unsigned i = 0; i < STEPS_MAX && x.left; i++) {
		step(&x);
		/* The driver of the fixture does not wait for room in its ring. */
		if (i % 8 == 7)
			drain(&x);
	}
	drain(&x);
	x.dev->ops->pause(x.dev);
	x.dev->ops->free(x.dev);
	block_close(x.disk);
	block_close(x.cd[0]);
	block_close(x.cd[1]);
	block_close(x.more);
	fx_done(&x.f);
	return 0;
}
