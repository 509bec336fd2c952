/* Parses the keys of a disk. */
#include "api/definition/definition_key.h"
#include "api/schema/disk_tune.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct choice formats[] = { { "raw", DEFINITION_FORMAT_RAW },
	{ "qcow2", DEFINITION_FORMAT_QCOW2 }, { NULL, 0 } };
static const struct choice error_policies[] = { { "report", VM_ERRORS_REPORT },
	{ "stop", VM_ERRORS_STOP }, { "ignore", VM_ERRORS_IGNORE }, { NULL, 0 } };
static const struct choice devices[] = { { "disk", DEFINITION_DISK },
	{ "cdrom", DEFINITION_CDROM }, { NULL, 0 } };

static const struct choice buses[] = { { "virtio", VM_BUS_VIRTIO }, { "scsi", VM_BUS_SCSI }, { NULL, 0 } };
static const struct choice discards[] = { { "unmap", 0 }, { "ignore", 1 }, { NULL, 0 } };
static const struct choice zeroes[] = { { "off", VM_ZEROES_OFF }, { "on", VM_ZEROES_ON },
	{ "unmap", VM_ZEROES_UNMAP }, { NULL, 0 } };
static const struct choice caches[] = { { "none", VM_CACHE_NONE }, { "writeback", VM_CACHE_WRITEBACK },
	{ "unsafe", VM_CACHE_UNSAFE }, { NULL, 0 } };

static int parse_wwn(struct parse *p, struct json_object *v, void *into)
{
	const char *s = js_plain_string(v);
	size_t n = s ? strspn(s, "0123456789abcdefABCDEF") : 0;

	if (n != 16 || s[n] || !strtoull(s, NULL, 16))
		return key_error(p, "must be 16 hexadecimal digits, such as \"5000c50015ea71aa\"");
	*(uint64_t *)into = strtoull(s, NULL, 16);
	return 0;
}

static int parse_block_bytes(struct parse *p, struct json_object *v, void *into)
{
	int64_t n = json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : 0;

	if (n < 512 || n > 4096 || !is_power_of_two((uint64_t)n))
		return key_error(p, "must be 512, 1024, 2048 or 4096");
	*(uint16_t *)into = (uint16_t)n;
	return 0;
}

/* 0 ns turns the polls off; other values are rounded up to us. */
static int parse_poll(struct parse *p, struct json_object *v, void *into)
{
	int64_t n = json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : -1;

	if (n < 0 || n > VM_POLL_US_MAX * 1000)
		return key_error(p, "must be 0 to %d ns; 0 turns polling off", VM_POLL_US_MAX * 1000);
	*(uint8_t *)into = n ? (uint8_t)DIV_ROUND_UP(n, 1000) : VM_POLL_OFF;
	return 0;
}

static int parse_serial(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255);

	if (!s)
		return -EINVAL;
	if (strlen(s) > 20)
		return key_error(p, "is %zu characters long; at most 20 reach the guest", strlen(s));
	for (const char *c = s; *c; c++)
		if (*c < 0x20 || *c > 0x7e)
			return key_error(p, "must be printable ASCII");
	snprintf(into, 24, "%s", s);
	return 0;
}

static int number_parse(struct parse *p, struct json_object *v, uint64_t max, void *into)
{
	int64_t n;

	if (!json_object_is_type(v, json_type_int))
		return key_error(p, "must be a whole number from 1 to %llu, not %s", (unsigned long long)max, js_type_words(v));
	n = json_object_get_int64(v);
	if (n < 1 || (uint64_t)n > max)
		return key_error(p, "%lld is out of range; give 1 to %llu", (long long)n, (unsigned long long)max);
	*(uint64_t *)into = (uint64_t)n;
	return 0;
}

static int parse_iops(struct parse *p, struct json_object *v, void *into)
{
	return number_parse(p, v, DISK_IOPS_MAX, into);
}

static int parse_burst(struct parse *p, struct json_object *v, void *into)
{
	return number_parse(p, v, DISK_BURST_SECONDS_MAX, into);
}

static int bytes_parse(struct parse *p, struct json_object *v, uint64_t min, const char *what, const char *range, void *into)
{
	const char *text = js_plain_string(v);
	uint64_t bytes;

	if (json_object_is_type(v, json_type_int))
		bytes = json_object_get_int64(v) < 0 ? 0 : (uint64_t)json_object_get_int64(v);
	else if (!text || size_parse(text, 1, &bytes) < 0)
		return key_error(p, "must be a number of %s, or a size such as \"20M\"", what);
	if (bytes < min || bytes > DISK_BPS_MAX)
		return key_error(p, "must be %s", range);
	*(uint64_t *)into = bytes;
	return 0;
}

static int parse_bps(struct parse *p, struct json_object *v, void *into)
{
	return bytes_parse(p, v, DISK_BPS_MIN, "bytes a second", "from 4096 bytes to 1T a second", into);
}

static int parse_iops_size(struct parse *p, struct json_object *v, void *into)
{
	return bytes_parse(p, v, 512, "bytes", "from 512 bytes to 1T", into);
}

#define LAYER(field) offsetof(struct definition_layer, field)
static const struct key layer_rows[] = {
	{ "path", KEY_PATH, .offset = LAYER(path), .needed = true,
		.about = "image file or block device" },
	{ "format", KEY_CHOICE, .offset = LAYER(format), .choices = formats, .noun = "a disk format",
		.needed = true, .about = "format of the image; Cairn never guesses it" },
	{ "data_file", KEY_PATH, .offset = LAYER(data_file),
		.about = "external data file of a qcow2 image, if it has one" },
};
KEYS(layer_keys, layer_rows);

static int check_layer(struct parse *p, const struct definition_layer *l)
{
	if (!l->path)
		return key_error(p, "path is missing; give the path of the image");
	if (!l->format)
		return key_error(p, "format is missing; give raw or qcow2, because Cairn does not guess formats");
	return 0;
}

static int parse_backing(struct parse *p, struct json_object *v, void *into)
{
	struct definition_disk *disk = into;
	size_t n;

	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array of {path, format}, the nearest layer first");
	n = json_object_array_length(v);
	if (n > VM_DISK_LAYERS_MAX - 1)
		return key_error(p, "has %zu layers; at most %d", n, VM_DISK_LAYERS_MAX - 1);
	for (size_t i = 0; i < n; i++) {
		size_t had = key_push_index(p, i);
		int r = keys_parse(p, json_object_array_get_idx(v, i), &layer_keys,
			&disk->layers[i + 1]);

		if (!r)
			r = check_layer(p, &disk->layers[i + 1]);
		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	disk->nlayers = (uint16_t)(n + 1);
	return 0;
}

#define DISK(field) offsetof(struct definition_disk, field)
#define BYTES_FORM(min) \
	"{\"anyOf\":[{\"type\":\"integer\",\"minimum\":" min ",\"maximum\":1099511627776}," KEY_SIZE_FORM "]}"
#define TUNE_IOPS_ROW .parse = parse_iops, \
	.form = "{\"type\":\"integer\",\"minimum\":1,\"maximum\":4294967295}"
#define TUNE_BPS_ROW .parse = parse_bps, .form = BYTES_FORM("4096")
#define TUNE_SECONDS_ROW .parse = parse_burst, .initial = "1", \
	.form = "{\"type\":\"integer\",\"minimum\":1,\"maximum\":86400}"
#define TUNE_BYTES_ROW .parse = parse_iops_size, .form = BYTES_FORM("512")
#define TUNE_ROW(key, libvirt, field, kind, meaning) \
	{ key, KEY_CUSTOM, .offset = DISK(tune.field), .about = meaning, kind##_ROW },
static const struct key disk_rows[] = {
	{ "id", KEY_CUSTOM, .offset = DISK(id), .parse = key_parse_id,
		.about = "id of the disk [vda, vdb, ... by position; sda, ... with bus scsi]", .form = KEY_ID_FORM },
	{ "device", KEY_CHOICE, .offset = DISK(device), .choices = devices,
		.about = "disk or cdrom; a cdrom is read-only and may have no medium", .initial = "\"disk\"" },
	{ "bus", KEY_CHOICE, .offset = DISK(bus), .choices = buses,
		.about = "virtio: a device of its own; scsi: a target of a virtio-scsi controller", .initial = "\"virtio\"" },
	{ "path", KEY_PATH, .offset = DISK(layers[0].path),
		.about = "image file or block device" },
	{ "format", KEY_CHOICE, .offset = DISK(layers[0].format), .choices = formats, .noun = "a disk format",
		.about = "format of the image; Cairn never guesses it" },
	{ "data_file", KEY_PATH, .offset = DISK(layers[0].data_file),
		.about = "external data file of a qcow2 image, if it has one" },
	{ "readonly", KEY_BOOL, .offset = DISK(read_only),
		.about = "the guest cannot write to the disk", .initial = "false" },
	{ "serial", KEY_CUSTOM, .offset = DISK(serial), .parse = parse_serial,
		.about = "serial number that the guest sees",
		.form = "{\"type\":\"string\",\"maxLength\":20,\"pattern\":\"^[ -~]*$\"}" },
	{ "wwn", KEY_CUSTOM, .offset = DISK(wwn), .parse = parse_wwn,
		.about = "world wide name that the guest sees; bus scsi only",
		.form = "{\"type\":\"string\",\"pattern\":\"^[0-9a-fA-F]{16}$\"}" },
	{ "logical_block_size", KEY_CUSTOM, .offset = DISK(logical_block_bytes), .parse = parse_block_bytes,
		.about = "bytes in a block of the disk [512]", .form = "{\"enum\":[512,1024,2048,4096]}" },
	{ "physical_block_size", KEY_CUSTOM, .offset = DISK(physical_block_bytes), .parse = parse_block_bytes,
		.about = "block size to which the guest aligns its writes", .form = "{\"enum\":[512,1024,2048,4096]}",
		.initial = "4096" },
	{ "discard", KEY_CHOICE, .offset = DISK(no_discard), .choices = discards,
		.about = "unmap: discards of the guest free space in the image; ignore: the guest cannot discard",
		.initial = "\"unmap\"" },
	{ "detect_zeroes", KEY_CHOICE, .offset = DISK(detect_zeroes), .choices = zeroes,
		.about = "on: writes of zeros are not written; unmap: they free space, too", .initial = "\"off\"" },
	{ "cache", KEY_CHOICE, .offset = DISK(cache), .choices = caches,
		.about = "none: bypass the host's page cache; writeback: use it; unsafe: use it, and ignore the guest's flushes",
		.initial = "\"none\"" },
	{ "poll_max_ns", KEY_CUSTOM, .offset = DISK(poll_max_us), .parse = parse_poll,
		.about = "how long a busy disk polls its queues for the next request; 0: it never polls", .initial = "50000",
		.form = "{\"type\":\"integer\",\"minimum\":0,\"maximum\":254000}" },
	{ "queues", KEY_NUMBER16, .offset = DISK(queues), .max = 8,
		.about = "number of queues; 0: one per vCPU", .initial = "0" },
	{ "queue_size", KEY_NUMBER16, .offset = DISK(queue_size), .max = 1024,
		.about = "entries per queue, a power of two; 0: 256",
		.initial = "0" },
	{ "errors", KEY_CHOICE, .offset = DISK(error_policy), .choices = error_policies,
		.about = "action when a request fails", .initial = "\"stop\"" },
	{ "boot_order", KEY_NUMBER16, .offset = DISK(boot_order), .min = 1, .max = 999,
		.about = "position in the boot order, unique; no effect on a VM that boots a kernel" },
	DISK_TUNE_EACH(TUNE_ROW)
	{ "backing", KEY_ARRAY, .max = VM_DISK_LAYERS_MAX - 1, .of = &layer_keys,
		.parse = parse_backing,
		.about = "backing files, the nearest layer first" },
};
const struct keys definition_disk_keys = { disk_rows, ARRAY_SIZE(disk_rows),
	"{\"dependentRequired\":{\"iops_max\":[\"iops\"],\"iops_max_length\":[\"iops_max\"],\"iops_rd_max\":[\"iops_rd\"],"
	"\"iops_rd_max_length\":[\"iops_rd_max\"],\"iops_wr_max\":[\"iops_wr\"],\"iops_wr_max_length\":[\"iops_wr_max\"],"
	"\"bps_max\":[\"bps\"],\"bps_max_length\":[\"bps_max\"],\"bps_rd_max\":[\"bps_rd\"],"
	"\"bps_rd_max_length\":[\"bps_rd_max\"],\"bps_wr_max\":[\"bps_wr\"],\"bps_wr_max_length\":[\"bps_wr_max\"]},"
	"\"if\":{\"properties\":{\"device\":{\"const\":\"cdrom\"}},\"required\":[\"device\"],"
	"\"not\":{\"required\":[\"path\"]}},"
	"\"then\":{\"properties\":{\"format\":false,\"data_file\":false,\"backing\":{\"maxItems\":0}}},"
	"\"else\":{\"required\":[\"path\",\"format\"]}}" };

/* Check the keys of the disk's image. A cdrom without a medium has no layers, so it accepts none of these keys. */
static int check_medium(struct parse *p, struct definition_disk *d)
{
	if (d->device == DEFINITION_CDROM)
		d->read_only = true;
	if (d->device != DEFINITION_CDROM || d->layers[0].path)
		return check_layer(p, &d->layers[0]);
	if (d->layers[0].format || d->layers[0].data_file || d->nlayers > 1)
		return key_error(p, "path is missing; give the path of the medium, or for an empty drive "
				    "omit format, data_file and backing, too");
	d->nlayers = 0;
	return 0;
}

/* Check the keys that only some buses have. */
static int check_bus(struct parse *p, const struct definition_disk *d)
{
	bool scsi = d->bus == VM_BUS_SCSI, cdrom = d->device == DEFINITION_CDROM;

	if (d->wwn && !scsi)
		return key_error(p, "wwn: only a disk with \"bus\": \"scsi\" has one; remove wwn, or give the disk a serial");
	if (scsi && (d->queues || d->queue_size))
		return key_error(p, "%s: the disks with bus scsi share a controller, which has a queue per vCPU; remove %s",
			d->queues ? "queues" : "queue_size", d->queues ? "queues" : "queue_size");
	if (scsi && cdrom && (d->logical_block_bytes || d->physical_block_bytes))
		return key_error(p, "%s: a CD drive has blocks of 2048 bytes; remove the key",
			d->logical_block_bytes ? "logical_block_size" : "physical_block_size");
	if (d->physical_block_bytes && d->physical_block_bytes < d->logical_block_bytes)
		return key_error(p, "physical_block_size: %u is less than logical_block_size", d->physical_block_bytes);
	return 0;
}

static int rate_check(struct parse *p, const char *name, const struct vm_disk_rate *l)
{
	if (l->max && !l->rate)
		return key_error(p, "%s_max: a burst needs the limit %s; add that, or remove %s_max", name, name, name);
	if (l->max && l->max <= l->rate)
		return key_error(p, "%s_max: %llu is not more than %s (%llu); give a higher %s_max, or none", name, (unsigned long long)l->max,
			name, (unsigned long long)l->rate, name);
	if (l->max_s && !l->max)
		return key_error(p, "%s_max_length: needs %s_max; add that, or remove %s_max_length", name, name, name);
	return 0;
}

static int check_tune(struct parse *p, const struct vm_disk_tune *t)
{
	static const char *const iops[] = { "iops", "iops_rd", "iops_wr" }, *const bps[] = { "bps", "bps_rd", "bps_wr" };
	int r = 0;

	for (unsigned i = 0; i < VM_DISK_RATES && !r; i++) {
		r = rate_check(p, iops[i], &t->iops[i]);
		if (!r)
			r = rate_check(p, bps[i], &t->bps[i]);
	}
	if (r < 0)
		return r;
	if (t->iops[0].rate && (t->iops[1].rate || t->iops[2].rate))
		return key_error(p, "iops: limits reads and writes together, so it cannot be combined with iops_rd and iops_wr");
	if (t->bps[0].rate && (t->bps[1].rate || t->bps[2].rate))
		return key_error(p, "bps: limits reads and writes together, so it cannot be combined with bps_rd and bps_wr");
	if (t->iops_bytes && !t->iops[0].rate && !t->iops[1].rate && !t->iops[2].rate)
		return key_error(p, "iops_size: needs iops, iops_rd or iops_wr; add one of these, or remove iops_size");
	return 0;
}

static int check_disk(struct parse *p, size_t i)
{
	struct definition_disk *d = &p->d->disks[i];
	int r = check_medium(p, d);

	if (!r)
		r = check_bus(p, d);
	if (!r)
		r = check_tune(p, &d->tune);
	if (r < 0)
		return r;
	if (d->queue_size && (d->queue_size < 2 || !is_power_of_two(d->queue_size)))
		return key_error(p, "queue_size: %u is not a power of two from 2 to 1024",
			d->queue_size);
	for (unsigned k = 0; k + 1 < d->nlayers; k++)
		if (d->layers[k].format == DEFINITION_FORMAT_RAW)
			return key_error(p, "backing: a raw image has no backing file; "
					    "remove backing, or set format to qcow2");
	for (unsigned k = 0; k < d->nlayers; k++)
		if (d->layers[k].data_file && d->layers[k].format == DEFINITION_FORMAT_RAW)
			return key_error(p, "data_file: a raw image has no data file; remove data_file, "
					    "or set format to qcow2");
	if (!d->id[0])
		snprintf(d->id, sizeof(d->id), "%cd%c", d->bus == VM_BUS_SCSI ? 's' : 'v', (char)('a' + i));
	return 0;
}

static bool one_image(const struct definition_disk *a, const struct definition_disk *b)
{
	return a->nlayers && b->nlayers && !strcmp(a->layers[0].path, b->layers[0].path);
}

static int check_pair(struct parse *p, unsigned i, unsigned k)
{
	const struct definition_disk *d = p->d->disks;

	if (!strcmp(d[i].id, d[k].id))
		return key_error(p, "disks[%u].id: \"%s\" is also the id of disks[%u]", i, d[i].id, k);
	if (one_image(&d[i], &d[k]) && !(d[i].read_only && d[k].read_only))
		return key_error(p, "disks[%u].path: is also the image of disks[%u]; two disks can share an "
				    "image only if both are readonly", i, k);
	if (d[i].boot_order && d[i].boot_order == d[k].boot_order)
		return key_error(p, "disks[%u].boot_order: %u is also the boot_order of disks[%u]", i,
			d[i].boot_order, k);
	return 0;
}

/* Check that ids, writable images and positions in the boot order are unique. A disk without an id gets one by its
 * position, so ids are compared only when all disks are known. */
int definition_check_disks(struct parse *p)
{
	int r = 0;

	for (unsigned i = 0; i < p->d->ndisks && !r; i++)
		for (unsigned k = 0; k < i && !r; k++)
			r = check_pair(p, i, k);
	return r;
}

int definition_parse_disks(struct parse *p, struct json_object *v, void *into)
{
	size_t n;

	(void)into;
	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array of disks, not %s", js_type_words(v));
	n = json_object_array_length(v);
	if (n > VM_DISKS_MAX)
		return key_error(p, "has %zu disks; at most %d", n, VM_DISKS_MAX);
	p->d->disks = calloc(n + 1, sizeof(*p->d->disks));
	if (!p->d->disks)
		return err_set_errno(p->e, -ENOMEM, "definition");
	p->d->ndisks = (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		size_t had = key_push_index(p, i);
		int r;

		p->d->disks[i].nlayers = 1;
		/* The default is to stop: if a full disk were reported to the guest, the guest would lose the data that
		 * it was about to write. */
		p->d->disks[i].error_policy = VM_ERRORS_STOP;
		r = keys_parse(p, json_object_array_get_idx(v, i), &definition_disk_keys, &p->d->disks[i]);
		if (!r)
			r = check_disk(p, i);
		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	return 0;
}

void definition_disks_free(struct definition *d)
{
	for (unsigned i = 0; i < d->ndisks; i++)
		for (unsigned k = 0; k < VM_DISK_LAYERS_MAX; k++) {
			free(d->disks[i].layers[k].path);
			free(d->disks[i].layers[k].data_file);
		}
	free(d->disks);
}

int definition_disk_find(const struct definition *d, const char *which)
{
	for (unsigned i = 0; i < d->ndisks; i++)
		if (!strcmp(d->disks[i].id, which) || (d->disks[i].nlayers && !strcmp(d->disks[i].layers[0].path, which)))
			return (int)i;
	return -ENOENT;
}
