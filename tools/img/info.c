#include "img.h"

#include "base/cleanup.h"
#include "base/hex.h"
#include "base/utf8.h"
#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/lock.h"
#include "block/qcow2/bitmap.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define FULL_MAX 8192

struct info_layer {
	struct img_layer *y;
	const char *path; /* as given by the user or the image */
	uint64_t size_bytes, actual_bytes;
	struct qcow2_snapshot_info *snapshots;
	size_t nsnapshots;
	struct qcow2_bitmap_info *bitmaps;
	size_t nbitmaps;
};

static bool feature_name(const struct info_layer *i, uint64_t bit)
{
	return i->y->header.incompatible & bit;
}

/* ---- printing text ---- */

void img_snapshot_heading(void)
{
	printf("Snapshot list:\n%-9s %-16s %8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE",
		"VM CLOCK", "ICOUNT");
}

const char *img_printable(const char *s, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s", s);
	utf8_clean(buf);
	return buf;
}

void img_snapshot_line(const struct qcow2_snapshot_info *s)
{
	time_t t = s->sec;
	uint64_t ms = s->vm_clock_ns / 1000000;
	char size[32], date[32], clock[32], icount[32] = "", id[64], name[BLOCK_SNAPSHOT_NAME_MAX + 1];
	struct tm tm;

	img_format_size(s->vm_state_bytes, size, sizeof(size));
	localtime_r(&t, &tm);
	strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(clock, sizeof(clock), "%02llu:%02u:%02u.%03u", (unsigned long long)(ms / 3600000),
		(unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60), (unsigned)(ms % 1000));
	if (s->has_icount)
		snprintf(icount, sizeof(icount), "%llu", (unsigned long long)s->icount);
	printf("%-9s %-16s %8s%20s%13s%11s\n", img_printable(s->id, id, sizeof(id)),
		img_printable(s->name, name, sizeof(name)), size, date, clock, icount);
}

/* Names of a bitmap's flags, by bit. */
static const char *const bitmap_flags[] = { "in-use", "auto" };

static void human_bitmaps(const struct info_layer *i)
{
	char name[QCOW2_BITMAP_NAME_MAX + 1];

	if (i->nbitmaps)
		puts("    bitmaps:");
	for (size_t k = 0; k < i->nbitmaps; k++) {
		const struct qcow2_bitmap_info *b = &i->bitmaps[k];
		unsigned n = 0;

		printf("        [%zu]:\n            flags:\n", k);
		for (size_t f = 0; f < ARRAY_SIZE(bitmap_flags); f++)
			if (b->flags >> f & 1)
				printf("                [%u]: %s\n", n++, bitmap_flags[f]);
		printf("            name: %s\n            granularity: %u\n", img_printable(b->name, name, sizeof(name)),
			1u << b->granularity_bits);
	}
}

/* Get the path of the backing file as seen from the current folder. */
static void backing_full(const struct info_layer *i, char ret[FULL_MAX])
{
	char backing[QCOW2_BACKING_NAME_MAX + 1];
	const char *slash = strrchr(i->path, '/');

	img_backing_path(&i->y->header, backing);
	if (img_is_no_path(backing))
		slash = NULL;
	snprintf(ret, FULL_MAX, "%.*s%s", *backing != '/' && slash ? (int)(slash + 1 - i->path) : 0, i->path, backing);
}

static void human_qcow2(const struct info_layer *i)
{
	const struct qcow2_header *h = &i->y->header;
	char name[sizeof(h->data_file)], pin[2 * BLOCK_PIN_ID_BYTES + 1], full[FULL_MAX], shown[FULL_MAX];

	printf("cluster_size: %u\n", 1u << h->cluster_bits);
	if (h->has_backing) {
		backing_full(i, full);
		printf("backing file: %s", img_printable(h->backing_name, shown, sizeof(shown)));
		if (!h->has_pin && strcmp(full, h->backing_name))
			printf(" (actual path: %s)", img_printable(full, shown, sizeof(shown)));
		putchar('\n');
		if (*h->backing_format)
			printf("backing file format: %s\n", img_printable(h->backing_format, shown, sizeof(shown)));
		if (h->has_pin) {
			hex_print(h->pin.id, sizeof(h->pin.id), pin);
			printf("backing file's pin: %s\n", pin);
		}
	}
	if (i->nsnapshots) {
		img_snapshot_heading();
		for (size_t k = 0; k < i->nsnapshots; k++)
			img_snapshot_line(&i->snapshots[k]);
	}
	printf("Format specific information:\n    compat: %s\n    compression type: %s\n",
		h->version == 2 ? "0.10" : "1.1", h->compression ? "zstd" : "zlib");
	if (h->version >= 3) {
		printf("    lazy refcounts: %s\n",
			h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS ? "true" : "false");
		human_bitmaps(i);
		printf("    refcount bits: %u\n", 1u << h->refcount_order);
		if (feature_name(i, QCOW2_INCOMPAT_DATA_FILE))
			printf("    data file: %s\n    data file raw: %s\n",
				img_printable(h->data_file, name, sizeof(name)),
				h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA ? "true" : "false");
		printf("    corrupt: %s\n    extended l2: %s\n",
			feature_name(i, QCOW2_INCOMPAT_CORRUPT) ? "true" : "false",
			feature_name(i, QCOW2_INCOMPAT_EXTENDED_L2) ? "true" : "false");
	} else {
		printf("    refcount bits: %u\n", 1u << h->refcount_order);
	}
}

static void info_print(const struct info_layer *i)
{
	char size[32], actual[32], shown[FULL_MAX];

	img_format_size(i->size_bytes, size, sizeof(size));
	if (i->y->protocol)
		snprintf(actual, sizeof(actual), "unavailable");
	else
		img_format_size(i->actual_bytes, actual, sizeof(actual));
	printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n",
		img_printable(i->path, shown, sizeof(shown)),
		block_format_name(i->y->format), size, (unsigned long long)i->size_bytes, actual);
	if (i->y->format != BLOCK_FORMAT_QCOW2)
		return;
	if (i->y->header.crypt_method)
		printf("encrypted: yes\n");
	if (feature_name(i, QCOW2_INCOMPAT_DIRTY))
		printf("cleanly shut down: no\n");
	human_qcow2(i);
}

/* ---- printing JSON ---- */

static void info_add(struct json_object *o, const char *key, struct json_object *v)
{
	json_object_object_add(o, key, v);
}

static void add_pin(struct json_object *o, const char *key, const uint8_t id[BLOCK_PIN_ID_BYTES])
{
	char text[2 * BLOCK_PIN_ID_BYTES + 1];

	hex_print(id, BLOCK_PIN_ID_BYTES, text);
	info_add(o, key, json_object_new_string(text));
}

struct json_object *img_snapshot_json(const struct qcow2_snapshot_info *s)
{
	uint8_t id[BLOCK_PIN_ID_BYTES];
	struct json_object *o = json_object_new_object();

	if (s->has_icount)
		info_add(o, "icount", json_object_new_uint64(s->icount));
	info_add(o, "vm-clock-nsec", json_object_new_uint64(s->vm_clock_ns % 1000000000));
	info_add(o, "name", json_object_new_string(s->name));
	info_add(o, "date-sec", json_object_new_int64(s->sec));
	info_add(o, "date-nsec", json_object_new_int64(s->nsec));
	info_add(o, "vm-clock-sec", json_object_new_uint64(s->vm_clock_ns / 1000000000));
	info_add(o, "id", json_object_new_string(s->id));
	info_add(o, "vm-state-size", json_object_new_uint64(s->vm_state_bytes));
	if (qcow2_pin_marked(s, id))
		add_pin(o, "pin", id);
	return o;
}

static struct json_object *json_bitmaps(const struct info_layer *i)
{
	struct json_object *list = json_object_new_array();

	for (size_t k = 0; k < i->nbitmaps; k++) {
		struct json_object *o = json_object_new_object(), *flags = json_object_new_array();

		for (size_t f = 0; f < ARRAY_SIZE(bitmap_flags); f++)
			if (i->bitmaps[k].flags >> f & 1)
				json_object_array_add(flags, json_object_new_string(bitmap_flags[f]));
		info_add(o, "flags", flags);
		info_add(o, "name", json_object_new_string(i->bitmaps[k].name));
		info_add(o, "granularity", json_object_new_int64(1LL << i->bitmaps[k].granularity_bits));
		json_object_array_add(list, o);
	}
	return list;
}

static struct json_object *json_specific(const struct info_layer *i)
{
	const struct qcow2_header *h = &i->y->header;
	struct json_object *o = json_object_new_object(), *d = json_object_new_object();

	info_add(d, "compat", json_object_new_string(h->version == 2 ? "0.10" : "1.1"));
	info_add(d, "compression-type", json_object_new_string(h->compression ? "zstd" : "zlib"));
	if (h->version >= 3) {
		info_add(d, "lazy-refcounts",
			json_object_new_boolean(!!(h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS)));
		if (i->nbitmaps)
			info_add(d, "bitmaps", json_bitmaps(i));
	}
	info_add(d, "refcount-bits", json_object_new_int(1 << h->refcount_order));
	if (feature_name(i, QCOW2_INCOMPAT_DATA_FILE)) {
		info_add(d, "data-file", json_object_new_string(h->data_file));
		info_add(d, "data-file-raw",
			json_object_new_boolean(!!(h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA)));
	}
	if (h->version >= 3) {
		info_add(d, "corrupt", json_object_new_boolean(feature_name(i, QCOW2_INCOMPAT_CORRUPT)));
		info_add(d, "extended-l2", json_object_new_boolean(feature_name(i, QCOW2_INCOMPAT_EXTENDED_L2)));
	}
	info_add(o, "type", json_object_new_string("qcow2"));
	info_add(o, "data", d);
	return o;
}

static struct json_object *json_snapshots(const struct info_layer *i)
{
	struct json_object *list = json_object_new_array();

	for (size_t k = 0; k < i->nsnapshots; k++)
		json_object_array_add(list, img_snapshot_json(&i->snapshots[k]));
	return list;
}

/* The keys are in qemu-img's order. */
static struct json_object *info_to_json(const struct info_layer *i)
{
	const struct qcow2_header *h = i->y->format == BLOCK_FORMAT_QCOW2 ? &i->y->header : NULL;
	struct json_object *o = json_object_new_object();
	bool backed = h && h->has_backing;
	char full[FULL_MAX];

	if (backed && *h->backing_format)
		info_add(o, "backing-filename-format", json_object_new_string(h->backing_format));
	if (i->nsnapshots)
		info_add(o, "snapshots", json_snapshots(i));
	info_add(o, "virtual-size", json_object_new_uint64(i->size_bytes));
	info_add(o, "filename", json_object_new_string(i->path));
	if (h)
		info_add(o, "cluster-size", json_object_new_int64(1LL << h->cluster_bits));
	if (backed && h->has_pin)
		add_pin(o, "backing-pin", h->pin.id);
	info_add(o, "format", json_object_new_string(block_format_name(i->y->format)));
	if (!i->y->protocol)
		info_add(o, "actual-size", json_object_new_uint64(i->actual_bytes));
	if (h)
		info_add(o, "format-specific", json_specific(i));
	if (backed) {
		backing_full(i, full);
		info_add(o, "full-backing-filename", json_object_new_string(full));
	}
	if (h && h->crypt_method)
		info_add(o, "encrypted", json_object_new_boolean(true));
	if (backed)
		info_add(o, "backing-filename", json_object_new_string(h->backing_name));
	info_add(o, "dirty-flag", json_object_new_boolean(h && feature_name(i, QCOW2_INCOMPAT_DIRTY)));
	return o;
}

/* ---- the verb info ---- */

static int layer_fill(struct info_layer *i, struct err *e)
{
	struct stat st;
	off_t end = lseek(i->y->fd, 0, SEEK_END);
	int r;

	if (end < 0 || fstat(i->y->fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", i->path);
	i->actual_bytes = (uint64_t)st.st_blocks * 512;
	i->size_bytes = i->y->format == BLOCK_FORMAT_QCOW2 ? ROUND_DOWN(i->y->header.size_bytes, 512)
							    : ROUND_UP((uint64_t)end, 512);
	if (i->y->format != BLOCK_FORMAT_QCOW2)
		return 0;
	r = qcow2_header_features_known(&i->y->header, e);
	if (!r)
		r = qcow2_bitmaps_read(i->y->fd, &i->y->header, &i->bitmaps, &i->nbitmaps, e);
	if (!r && i->y->header.nb_snapshots)
		r = img_snapshots_read(i->y, &i->snapshots, &i->nsnapshots, e);
	if (r < 0)
		err_prefix(e, "%s", i->path);
	return r;
}

static int size_take(struct block *b, void *opaque, struct err *e)
{
	struct info_layer *i = opaque;
	struct block_info info;

	(void)e;
	block_info(b, &info);
	i->size_bytes = info.size_bytes;
	return 0;
}

/* format: that of the image; NULL: it is found out. */
static int url_fill(struct info_layer *i, const char *format, struct err *e)
{
	struct img_open o = { .path = i->path, .protocol = i->y->protocol, .format = format };

	return img_block_run(img_loop(0), &o, size_take, i, e);
}

static int info_run(const struct img_open *o, bool as_json, bool chain, struct err *e)
{
	struct img_layer *layers = calloc(BLOCK_LAYERS_MAX, sizeof(*layers));
	struct json_object *list = json_object_new_array();
	unsigned n = 0;
	int r = layers ? img_disk_layers_open(o, layers, &n, e) : err_set_errno(e, -ENOMEM, "info");

	if (!r && !img_loop(0)) /* no layer is an export, which url_fill() opens */
		r = img_seal(false, e);
	for (unsigned i = 0; i < n && !r; i++) {
		struct info_layer info = { .y = &layers[i], .path = img_layer_shown(&layers[i]) };
		char dotted[PATH_MAX + 2];

		if (!info.y->protocol && img_has_protocol(info.path)) { /* a path that qemu-img takes back */
			snprintf(dotted, sizeof(dotted), "./%s", info.path);
			info.path = dotted;
		}
		if (!o->no_lock && !info.y->protocol)
			r = lock_acquire(layers[i].fd, LOCK_AS_READER, layers[i].path, e);
		if (!r)
			r = info.y->protocol ? url_fill(&info, i ? block_format_name(info.y->format) : o->format, e) : layer_fill(&info, e);
		if (!r && !i && o->ranged)
			r = img_range_bytes(o, info.size_bytes, &info.size_bytes, e);
		if (!r && as_json)
			json_object_array_add(list, info_to_json(&info));
		else if (!r) {
			printf(i ? "\n" : "");
			info_print(&info);
		}
		qcow2_snapshots_free(info.snapshots, info.nsnapshots);
		qcow2_bitmaps_free(info.bitmaps, info.nbitmaps);
	}
	if (!r && as_json)
		img_json_print(chain ? list : json_object_array_get_idx(list, 0));
	json_object_put(list);
	if (layers)
		img_layers_free(layers, n);
	free(layers);
	return r;
}

int img_info_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS,
		{ "backing-chain", no_argument, NULL, IMG_OPT_OWN }, { NULL, 0, NULL, 0 } };
	struct img_common x = { .o.no_backing = true };
	struct err e;
	int c, st = 0;

	img_common_init(&x, "info");
	while (!st && (c = getopt_long(argc, argv, "f:U", longs, NULL)) != -1) {
		if (c == IMG_OPT_OWN)
			x.o.no_backing = false;
		else
			st = img_common_option(&x, c, c == '?' ? argv[optind - 1] : optarg);
	}
	if (st)
		return st;
	if (argc - optind != 1)
		return img_usage("info", "one FILE is required");
	if (img_common_name(&x, &x.o, argv[optind]))
		return 1;
	if (x.o.backing && !x.o.no_backing)
		return img_usage("info", "--backing-chain shows the backing files that the images name; leave out the options of the "
			"backing file");
	return img_confine(x.o.protocol || x.o.trust, 64, &e) < 0 || info_run(&x.o, x.json, !x.o.no_backing, &e) < 0 ? img_fail(&e) : 0;
}
