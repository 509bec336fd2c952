/* Read the disks and sort them like libvirt: by bus, in the order in which the buses appear in the text, then by
 * target. Those of Cairn's own XML keep the order of the text. The guest numbers the disks in this order. */
#include "tools/xml/domain.h"
#include "api/schema/disk_tune.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "tools/xml/reading.h"

#include <errno.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <string.h>

#define QUEUES_MAX 8
#define SERIAL_MAX 20 /* limit of virtio; QEMU also truncates */

struct slot {
	struct _xmlNode *node;
	char *target; /* owned */
	char *bus;    /* owned */
	size_t bus_rank;
	uint64_t index;
	size_t place; /* position in the text */
	bool cdrom;
};

struct slots {
	struct slot *list;
	size_t n;
};

static void slot_done(struct slot *s)
{
	free(s->target);
	free(s->bus);
	*s = (struct slot){ 0 };
}

static void slots_done(struct slots *s)
{
	for (size_t i = 0; i < s->n; i++)
		slot_done(&s->list[i]);
	free(s->list);
}

/* ---- target and bus of disks ---- */

/* Prefixes of target names in libvirt, and the default bus of each. */
static const struct {
	const char *prefix, *bus;
} names[] = { { "vd", "virtio" }, { "hd", "ide" }, { "sd", "scsi" }, { "xvd", "xen" },
	{ "fd", "fdc" }, { "ubd", "uml" } };

/* Parse the number in a target: "vda" is 0, "vdz" 25, "vdaa" 26. Returns 0 or -EINVAL. */
static int target_index(const char *target, uint64_t *ret_index, const char **ret_bus)
{
	uint64_t index = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		size_t len = strlen(names[i].prefix);

		if (strncmp(target, names[i].prefix, len) || !target[len] || strlen(target) > NODE_ID_MAX)
			continue;
		for (const char *p = target + len; *p; p++) {
			if (*p < 'a' || *p > 'z')
				return -EINVAL;
			index = index * 26 + (uint64_t)(*p - 'a') + 1;
		}
		*ret_index = index - 1;
		*ret_bus = names[i].bus;
		return 0;
	}
	return -EINVAL;
}

static int slot_device(struct reading *r, struct slot *s)
{
	CLEANUP_FREE char *device = node_attr(s->node, "device");

	s->cdrom = device && !strcmp(device, "cdrom");
	if (!device || s->cdrom || !strcmp(device, "disk"))
		return 0;
	return reading_error(r, s->node, "device", ERR_UNSUPPORTED,
		"\"%.40s\" is not supported; use disk or cdrom", device);
}

static int slot_target(struct reading *r, struct slot *s)
{
	struct _xmlNode *t = node_child(s->node, "target");
	const char *bus;

	s->target = node_attr(t, "dev");
	s->bus = node_attr(t, "bus");
	if (!s->target)
		return reading_error(r, s->node, NULL, ERR_INVALID,
			"has no target; give <target dev='vda' bus='virtio'/>");
	if (target_index(s->target, &s->index, &bus) < 0)
		return reading_error(r, t, "dev", ERR_INVALID,
			"\"%.40s\" is not a disk's name, such as vda", s->target);
	if (!s->bus)
		s->bus = strdup(bus);
	if (!s->bus)
		return err_set_errno(r->e, -ENOMEM, "domain XML");
	if (!strcmp(s->bus, "fdc"))
		return reading_error(r, t, "bus", ERR_UNSUPPORTED,
			"floppy disks are not supported; use bus='virtio'");
	if (!strcmp(s->bus, "virtio") || !strcmp(s->bus, "scsi"))
		return 0;
	if (s->cdrom) {
		reading_warn(r, t, "bus", "\"%.40s\" becomes scsi: the guest needs a driver for virtio-scsi", s->bus);
		free(s->bus);
		s->bus = strdup("scsi");
		if (!s->bus)
			return err_set_errno(r->e, -ENOMEM, "domain XML");
	} else {
		reading_warn(r, t, "bus",
			"\"%.40s\" becomes virtio: the guest has %s as /dev/vd..., not /dev/%s; it "
			"needs a virtio driver; use root=UUID=... or LABEL=...",
			s->bus, s->target, s->target);
	}
	return 0;
}

static int slot_init(struct reading *r, struct slots *all, struct slot *s)
{
	int ret = slot_device(r, s);

	if (!ret)
		ret = slot_target(r, s);
	s->bus_rank = all->n;
	for (size_t i = 0; !ret && i < all->n; i++) {
		const struct slot *o = &all->list[i];

		if (!strcmp(o->target, s->target))
			return reading_error(r, node_child(s->node, "target"), "dev", ERR_INVALID,
				"\"%s\" is also the target of the disk in line %ld", s->target,
				xmlGetLineNo(o->node));
		if (!strcmp(o->bus, s->bus))
			s->bus_rank = MIN(s->bus_rank, o->bus_rank);
	}
	return ret;
}

static int slot_compare(const void *a, const void *b)
{
	const struct slot *x = a, *y = b;

	if (x->bus_rank != y->bus_rank)
		return x->bus_rank < y->bus_rank ? -1 : 1;
	if (x->index != y->index)
		return x->index < y->index ? -1 : 1;
	return x->place < y->place ? -1 : 1;
}

/* Whether an empty drive has this source: virsh prints its startupPolicy alone. */
static bool is_empty(struct _xmlNode *source)
{
	struct _xmlAttr *a = source->properties;

	while (a && (!xmlStrcmp(a->name, BAD_CAST "startupPolicy") || !xmlStrcmp(a->name, BAD_CAST "index")))
		a = a->next;
	return !a;
}

/* Limit of disks in a text, because every target is compared with every other. A definition may have far fewer
 * disks. */
#define SLOTS_MAX 1024

static int slots_collect(struct reading *r, struct _xmlNode *first, struct slots *s)
{
	int ret = 0;

	s->list = calloc(SLOTS_MAX, sizeof(*s->list));
	if (!s->list)
		return err_set_errno(r->e, -ENOMEM, "domain XML");
	for (struct _xmlNode *n = first; n && !ret; n = node_next(n)) {
		if (s->n == SLOTS_MAX)
			return reading_error(r, n, NULL, ERR_INVALID, "is one disk too many; the limit is %d",
				SLOTS_MAX);
		if (node_attr_is(n, "device", "floppy") && (!node_child(n, "source") || is_empty(node_child(n, "source")))) {
			reading_warn(r, n, NULL, "has no effect: there are no floppy disks, and this drive is empty");
			continue;
		}
		s->list[s->n].node = n;
		s->list[s->n].place = s->n;
		ret = slot_init(r, s, &s->list[s->n]);
		if (!ret) {
			s->n++;
			continue;
		}
		slot_done(&s->list[s->n]);
		ret = reading_continue(r, ret);
	}
	if (!ret && !js_get(r->definition, "machine"))
		qsort(s->list, s->n, sizeof(*s->list), slot_compare);
	return ret;
}

/* ---- images of a disk ---- */

/* Read the file of type='file' or the dev of type='block'. Without a source, adds nothing. */
static int source_read(struct reading *r, struct _xmlNode *n, struct json_object *into,
	const char *key)
{
	struct _xmlNode *source = node_child(n, "source");
	CLEANUP_FREE char *type = node_attr(n, "type"), *path = NULL;
	bool block = type && !strcmp(type, "block");

	if (type && !strcmp(type, "volume"))
		return reading_error(r, n, "type", ERR_UNSUPPORTED,
			"\"volume\" is not supported; give type='file' and the path, which cairn vol-path VOLUME --pool POOL or virsh vol-path prints");
	if (type && !block && strcmp(type, "file"))
		return reading_error(r, n, "type", ERR_UNSUPPORTED,
			"\"%.40s\" is not supported; give a file (type='file') or a block device of "
			"this host (type='block')", type);
	path = node_attr(source, block ? "dev" : "file");
	if (source && !path && node_attr_is(source, block ? "file" : "dev", ""))
		return 0;
	if (source && !path && !is_empty(source))
		return reading_error(r, source, NULL, ERR_INVALID,
			"has no %s='...', which type='%s' needs", block ? "dev" : "file",
			block ? "block" : "file");
	if (path && *path)
		js_put_str(into, key, path);
	return 0;
}

static int format_put(struct reading *r, struct _xmlNode *n, struct json_object *into)
{
	CLEANUP_FREE char *type = node_attr(n, "type");
	const char *word = type ? type : "raw";

	if (!strcmp(word, "aio"))
		word = "raw"; /* libvirt's old name of raw */
	if (strcmp(word, "raw") && strcmp(word, "qcow2"))
		return reading_error(r, n, "type", ERR_UNSUPPORTED,
			"\"%.40s\" is not a format Cairn reads; make it qcow2 with qemu-img convert",
			word);
	js_put_str(into, "format", word);
	return 0;
}

static int data_file_read(struct reading *r, struct _xmlNode *n, struct json_object *into)
{
	struct _xmlNode *store = node_child(node_child(n, "source"), "dataStore");

	return store ? source_read(r, store, into, "data_file") : 0;
}

static int backing_read(struct reading *r, struct _xmlNode *n, struct json_object *disk, size_t at)
{
	struct json_object *list = json_object_new_array();
	int ret = 0;

	js_put(disk, "backing", list);
	for (; n && !ret && node_child(n, "source"); n = node_child(n, "backingStore")) {
		struct json_object *layer = json_object_new_object();
		struct _xmlNode *format = node_child(n, "format");

		reading_origin(r, n, "disks[%zu].backing[%zu]", at, json_object_array_length(list));
		json_object_array_add(list, layer);
		ret = source_read(r, n, layer, "path");
		if (!ret && !format)
			ret = reading_error(r, n, NULL, ERR_INVALID,
				"has no <format type='...'/>; give raw or qcow2, because Cairn does not guess formats");
		if (!ret)
			ret = format_put(r, format, layer);
		if (!ret)
			ret = data_file_read(r, n, layer);
	}
	if (!json_object_array_length(list))
		json_object_object_del(disk, "backing");
	return ret;
}

static int image_read(struct reading *r, const struct slot *s, struct json_object *disk, size_t at)
{
	struct _xmlNode *driver = node_child(s->node, "driver");
	int ret = source_read(r, s->node, disk, "path");

	if (ret < 0)
		return ret;
	if (!js_get(disk, "path") && !s->cdrom)
		return reading_error(r, s->node, NULL, ERR_INVALID,
			"has no source; give <source file='...'/>, or dev='...' with type='block'");
	if (js_get(disk, "path") && !s->cdrom && !(driver && xmlHasProp(driver, BAD_CAST "type")))
		reading_warn(r, s->node, NULL,
			"has no <driver type='...'/>, so its format is raw, as in libvirt");
	if (js_get(disk, "path"))
		ret = format_put(r, driver, disk);
	if (!ret)
		ret = data_file_read(r, s->node, disk);
	return ret ? ret : backing_read(r, node_child(s->node, "backingStore"), disk, at);
}

/* ---- driver and properties of a disk ---- */

static void errors_read(struct reading *r, struct _xmlNode *driver, struct json_object *disk)
{
	CLEANUP_FREE char *write = node_attr(driver, "error_policy");
	CLEANUP_FREE char *read = node_attr(driver, "rerror_policy");

	if (write && !strcmp(write, "enospace")) {
		reading_warn(r, driver, "error_policy",
			"\"enospace\" is \"stop\": any error of the image stops the VM");
		js_put_str(disk, "errors", "stop");
	} else if (write && strcmp(write, "default")) {
		js_put_str(disk, "errors", write);
	}
	if (read && (!write || strcmp(read, write)))
		reading_warn(r, driver, "rerror_policy",
			"has no effect: reads have the same policy as writes");
}

static void cache_read(struct reading *r, struct _xmlNode *driver, struct json_object *disk)
{
	static const char *const set[] = { "writeback", "unsafe" }, *const unset[] = { "none", "default" };
	bool known = !xmlHasProp(driver, BAD_CAST "cache");

	for (size_t i = 0; i < ARRAY_SIZE(set); i++) {
		if (node_attr_is(driver, "cache", set[i]))
			js_put_str(disk, "cache", set[i]);
		known |= node_attr_is(driver, "cache", set[i]) || node_attr_is(driver, "cache", unset[i]);
	}
	if (!known)
		reading_warn(r, driver, "cache", "has no effect: Cairn has none, writeback and unsafe; the disk has none, which is as durable "
			"as the guest's flushes");
}

static int driver_read(struct reading *r, const struct slot *s, struct _xmlNode *driver, struct json_object *disk)
{
	static const char *const numbers[] = { "queues", "queue_size" };
	static const uint64_t most[] = { QUEUES_MAX, UINT32_MAX };
	static const char *const zeroes[] = { "on", "unmap" };
	uint64_t v;

	for (size_t i = 0; driver && i < ARRAY_SIZE(numbers); i++) {
		int ret = node_attr_number(r, driver, numbers[i], UINT32_MAX, &v);

		if (ret < 0)
			return ret;
		if (!ret && v > most[i])
			reading_warn(r, driver, numbers[i], "there are at most %llu",
				(unsigned long long)most[i]);
		if (!ret && !strcmp(s->bus, "scsi"))
			reading_warn(r, driver, numbers[i], "has no effect: the controller has a queue per vCPU");
		else if (!ret)
			js_put_uint(disk, numbers[i], MIN(v, most[i]));
	}
	if (driver) {
		errors_read(r, driver, disk);
		cache_read(r, driver, disk);
	}
	if (driver && node_attr_is(driver, "discard", "ignore"))
		js_put_str(disk, "discard", "ignore");
	for (size_t i = 0; driver && i < ARRAY_SIZE(zeroes); i++)
		if (node_attr_is(driver, "detect_zeroes", zeroes[i]))
			js_put_str(disk, "detect_zeroes", zeroes[i]);
	return 0;
}

static int blockio_read(struct reading *r, const struct slot *s, struct _xmlNode *n, struct json_object *disk)
{
	static const char *const keys[] = { "logical_block_size", "physical_block_size" };
	uint64_t v;

	for (size_t i = 0; n && i < ARRAY_SIZE(keys); i++) {
		int ret = node_attr_number(r, n, keys[i], UINT32_MAX, &v);

		if (ret < 0)
			return ret;
		if (!ret && v && s->cdrom && !strcmp(s->bus, "scsi"))
			reading_warn(r, n, keys[i], "has no effect: a CD drive has blocks of 2048 bytes");
		else if (!ret && v)
			js_put_uint(disk, keys[i], v);
	}
	if (n && xmlHasProp(n, BAD_CAST "discard_granularity"))
		reading_warn(r, n, "discard_granularity", "has no effect: it is the image's");
	return 0;
}

static int wwn_read(struct reading *r, const struct slot *s, struct json_object *disk)
{
	struct _xmlNode *n = node_child(s->node, "wwn");
	CLEANUP_FREE char *text = n ? node_text(n) : NULL;

	if (!n)
		return 0;
	if (!text)
		return err_set_errno(r->e, -ENOMEM, "domain XML");
	if (strcmp(s->bus, "scsi"))
		reading_warn(r, n, NULL, "has no effect: only a disk with bus scsi has one");
	else
		js_put_str(disk, "wwn", text);
	return 0;
}

/* Read the limits of <iotune>; 0 is none. */
static int iotune_read(struct reading *r, struct _xmlNode *n, struct json_object *disk)
{
	static const uint64_t max[] = { [TUNE_IOPS] = DISK_IOPS_MAX, [TUNE_BPS] = DISK_BPS_MAX, [TUNE_SECONDS] = DISK_BURST_SECONDS_MAX,
		[TUNE_BYTES] = DISK_BPS_MAX };

	for (size_t i = 0; n && i < DISK_TUNE_KEYS; i++) {
		const struct disk_tune_key *k = &disk_tune_keys[i];
		char element[DISK_TUNE_WORD_MAX];
		struct _xmlNode *child = node_child(n, disk_tune_word(k, element));
		CLEANUP_FREE char *text = child ? node_text(child) : NULL;
		uint64_t value;

		if (!child)
			continue;
		if (!text || number_parse(text, UINT64_MAX, &value) < 0)
			return reading_error(r, child, NULL, ERR_INVALID, "is not a whole number");
		if (value > max[k->kind])
			reading_warn(r, child, NULL, "is %llu at most", (unsigned long long)max[k->kind]);
		if (value)
			js_put_uint(disk, k->key, MIN(value, max[k->kind]));
	}
	return 0;
}

static int serial_read(struct reading *r, struct _xmlNode *n, struct json_object *disk)
{
	CLEANUP_FREE char *text = n ? node_text(n) : NULL;

	if (!n)
		return 0;
	if (!text)
		return err_set_errno(r->e, -ENOMEM, "domain XML");
	if (strlen(text) > SERIAL_MAX) {
		reading_warn(r, n, NULL, "the guest sees its first %d characters", SERIAL_MAX);
		text[SERIAL_MAX] = 0;
	}
	js_put_str(disk, "serial", text);
	return 0;
}

static int boot_read(struct reading *r, struct _xmlNode *n, struct json_object *disk)
{
	uint64_t order;
	int ret = n ? node_attr_number(r, n, "order", UINT32_MAX, &order) : 1;

	if (!ret)
		js_put_uint(disk, "boot_order", order);
	return ret < 0 ? ret : 0;
}

static void snapshot_warn(struct reading *r, struct _xmlNode *n)
{
	CLEANUP_FREE char *how = node_attr(n, "snapshot");

	if (how && strcmp(how, "internal") && strcmp(how, "default"))
		reading_warn(r, n, "snapshot",
			"\"%.40s\" has no effect: a snapshot covers every disk that is not readonly",
			how);
}

static int disk_read(struct reading *r, const struct slot *s, struct json_object *disk, size_t at)
{
	CLEANUP_FREE char *alias = node_user_alias(s->node);
	int ret;

	reading_origin(r, s->node, "disks[%zu]", at);
	js_put_str(disk, "id", alias ? alias : s->target);
	if (s->cdrom)
		js_put_str(disk, "device", "cdrom");
	if (!strcmp(s->bus, "scsi"))
		js_put_str(disk, "bus", "scsi");
	if (s->cdrom || node_child(s->node, "readonly"))
		js_put_bool(disk, "readonly", true);
	snapshot_warn(r, s->node);
	ret = image_read(r, s, disk, at);
	if (!ret)
		ret = driver_read(r, s, node_child(s->node, "driver"), disk);
	if (!ret)
		ret = blockio_read(r, s, node_child(s->node, "blockio"), disk);
	if (!ret)
		ret = serial_read(r, node_child(s->node, "serial"), disk);
	if (!ret)
		ret = wwn_read(r, s, disk);
	if (!ret)
		ret = iotune_read(r, node_child(s->node, "iotune"), disk);
	return ret ? ret : boot_read(r, node_child(s->node, "boot"), disk);
}

/* ---- <boot dev='...'/> of <os>: the first disk of that kind ---- */

static int boot_dev_read(struct reading *r, struct _xmlNode *n, const struct slots *s,
	struct json_object *disks, unsigned order)
{
	CLEANUP_FREE char *dev = node_attr(n, "dev");
	bool cdrom = dev && !strcmp(dev, "cdrom");
	struct _xmlNode *domain = n->parent->parent;

	if (!dev || (!cdrom && strcmp(dev, "hd") && strcmp(dev, "network") && strcmp(dev, "fd")))
		return reading_error(r, n, "dev", ERR_INVALID,
			"is not a kind of device; use hd, cdrom, network or fd");
	for (size_t i = 0; (cdrom || !strcmp(dev, "hd")) && i < s->n; i++) {
		struct json_object *disk = json_object_array_get_idx(disks, i);

		if (s->list[i].cdrom != cdrom)
			continue;
		if (!js_get(disk, "boot_order"))
			js_put_uint(disk, "boot_order", order);
		return 0;
	}
	/* interfaces_read() finds the network. */
	if (strcmp(dev, "network") || !node_child(node_child(domain, "devices"), "interface"))
		reading_warn(r, n, NULL, "has no effect: a VM has no such device to start from");
	return 0;
}

static int boot_devs_read(struct reading *r, struct _xmlNode *domain, const struct slots *s,
	struct json_object *disks)
{
	struct _xmlNode *n = node_child(node_child(domain, "os"), "boot");
	unsigned order = 0;
	int ret = 0;

	for (size_t i = 0; n && i < s->n; i++)
		if (js_get(json_object_array_get_idx(disks, i), "boot_order"))
			return reading_error(r, n, NULL, ERR_INVALID,
				"cannot be together with <boot order='...'/> in a disk; keep one of them");
	for (; n && !ret; n = node_next(n))
		ret = boot_dev_read(r, n, s, disks, ++order);
	return ret;
}

int disks_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *first = node_child(node_child(domain, "devices"), "disk");
	struct slots s CLEANUP(slots_done) = { NULL, 0 };
	struct json_object *disks = json_object_new_array();
	int ret = slots_collect(r, first, &s);

	js_put(r->definition, "disks", disks);
	for (size_t i = 0; !ret && i < s.n; i++) {
		struct json_object *disk = json_object_new_object();

		json_object_array_add(disks, disk);
		ret = reading_continue(r, disk_read(r, &s.list[i], disk, i));
	}
	return ret ? ret : boot_devs_read(r, domain, &s, disks);
}
