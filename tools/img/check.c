#include "img.h"

#include "block/lock.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

enum check_exit { CHECK_CLEAN = 0, CHECK_FAILED = 1, CHECK_CORRUPT = 2, CHECK_LEAKS = 3,
	CHECK_NO_TABLES = 63 };

static void line_print(void *opaque, const char *line)
{
	(void)opaque;
	puts(line);
}

static int check_verdict(const struct qcow2_check *c)
{
	return c->corruptions ? CHECK_CORRUPT : c->errors ? CHECK_FAILED
		: c->leaks ? CHECK_LEAKS : CHECK_CLEAN;
}

static double percent_of(uint64_t part, uint64_t of)
{
	return of ? 100.0 * (double)part / (double)of : 0;
}

static void check_print(const struct qcow2_check *c)
{
	if (c->corruptions)
		printf("\n%llu errors were found on the image.\nData may be corrupted, or further writes to "
			"the image may corrupt it.\n", (unsigned long long)c->corruptions);
	if (c->leaks)
		printf("\n%llu leaked clusters were found on the image.\nThis means waste of disk space, but "
			"no harm to data.\n", (unsigned long long)c->leaks);
	if (c->errors)
		printf("\n%llu internal errors have occurred during the check.\n",
			(unsigned long long)c->errors);
	if (!c->corruptions && !c->leaks && !c->errors)
		puts("No errors were found on the image.");
	if (c->allocated_clusters)
		printf("%llu/%llu = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
		(unsigned long long)c->allocated_clusters, (unsigned long long)c->total_clusters,
		percent_of(c->allocated_clusters, c->total_clusters),
		percent_of(c->fragmented_clusters, c->allocated_clusters),
		percent_of(c->compressed_clusters, c->allocated_clusters));
	printf("Image end offset: %llu\n", (unsigned long long)c->image_end_offset);
}

static void add_count(struct json_object *o, const char *key, uint64_t v, bool always)
{
	if (v || always)
		json_object_object_add(o, key, json_object_new_uint64(v));
}

/* The keys are in qemu-img's order. */
static void check_to_json(const struct qcow2_check *c, const char *path)
{
	struct json_object *o = json_object_new_object();

	add_count(o, "image-end-offset", c->image_end_offset, true);
	add_count(o, "compressed-clusters", c->compressed_clusters, false);
	add_count(o, "total-clusters", c->total_clusters, true);
	add_count(o, "corruptions", c->corruptions, false);
	add_count(o, "corruptions-fixed", c->corruptions_fixed, false);
	add_count(o, "check-errors", c->errors, true);
	add_count(o, "leaks", c->leaks, false);
	add_count(o, "leaks-fixed", c->leaks_fixed, false);
	add_count(o, "allocated-clusters", c->allocated_clusters, false);
	json_object_object_add(o, "filename", json_object_new_string(path));
	json_object_object_add(o, "format", json_object_new_string("qcow2"));
	add_count(o, "fragmented-clusters", c->fragmented_clusters, false);
	img_json_print(o);
	json_object_put(o);
}

struct check_args {
	struct img_common common;
	enum qcow2_repair repair; /* 0: no repair */
};

static void check_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct check_args *a = opaque;

	img_progress_set(&a->common.progress, done, total);
}

static void repaired_print(const struct qcow2_check *c)
{
	printf("The following inconsistencies were found and repaired:\n\n    %llu leaked clusters\n"
		"    %llu corruptions\n\nDouble checking the fixed image now...\n",
		(unsigned long long)c->leaks_fixed, (unsigned long long)c->corruptions_fixed);
}

/* Check an image even if it is marked corrupt or dirty; refuse only an image that cannot be read. */
static int check_run(const struct check_args *a, struct img_layer *y, struct qcow2_check *c,
	struct err *e)
{
	int r = 0;

	if (!a->common.o.no_lock)
		r = lock_acquire(y->fd, a->repair ? LOCK_AS_WRITER : LOCK_AS_READER, a->common.o.path, e);
	if (!r)
		r = qcow2_header_supported(&y->header, false, e);
	if (r < 0)
		return r;
	/* Read the header again under the lock: the image may have changed. */
	r = qcow2_header_read_damaged(y->fd, a->common.o.path, &y->header, e);
	if (!r)
		r = a->repair ? qcow2_repair(y->fd, &y->header, a->repair, c, e)
			      : qcow2_check(y->fd, &y->header, c, e);
	return r;
}

static int check_layer(struct check_args *a, struct img_layer *y)
{
	struct qcow2_check c = { .report = a->common.json || a->common.quiet ? NULL : line_print, .progress = check_progress,
		.opaque = a };
	struct err e;
	int r;

	if (y->format != BLOCK_FORMAT_QCOW2) {
		if (!a->common.quiet)
			fprintf(stderr, "%s: %s is raw: it has no tables to check\n", program_invocation_short_name,
				a->common.o.path);
		return CHECK_NO_TABLES;
	}
	r = check_run(a, y, &c, &e);
	img_progress_end(&a->common.progress, !r);
	if (r < 0) {
		if (!strstr(e.msg, a->common.o.path))
			err_prefix(&e, "%s", a->common.o.path);
		return img_fail(&e);
	}
	if (a->common.json)
		check_to_json(&c, a->common.o.path);
	if (a->common.json || a->common.quiet)
		return check_verdict(&c);
	if (c.leaks_fixed || c.corruptions_fixed)
		repaired_print(&c);
	check_print(&c);
	return check_verdict(&c);
}

static int repair_word(const char *w, struct check_args *a)
{
	if (!strcmp(w, "leaks"))
		a->repair = QCOW2_REPAIR_LEAKS;
	else if (!strcmp(w, "all"))
		a->repair = QCOW2_REPAIR_ALL;
	else
		return img_usage("check", "-r must be 'leaks' or 'all', not '%s'", w);
	a->common.o.writable = true;
	return 0;
}

int img_check_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS, { "repair", required_argument, NULL, 'r' },
		{ NULL, 0, NULL, 0 } };
	struct check_args a = { .common.o = { .no_backing = true, .damaged = true } };
	struct img_layer layers[BLOCK_LAYERS_MAX];
	unsigned n;
	struct err e;
	int c, st = 0;

	img_common_init(&a.common, "check");
	while (!st && (c = getopt_long(argc, argv, "f:pr:T:Uq", longs, NULL)) != -1)
		st = c == 'r' ? repair_word(optarg, &a)
			: c == 'T' ? img_cache_option("check", optarg)
			      : img_common_option(&a.common, c, c == '?' ? argv[optind - 1] : optarg);
	if (st)
		return st;
	if (argc - optind != 1)
		return img_usage("check", "one FILE is required");
	if (!a.common.json) /* JSON is the result alone, without progress */
		img_common_progress(&a.common);
	if (img_common_name(&a.common, &a.common.o, argv[optind]))
		return 1;
	if (a.repair && a.common.o.no_lock)
		return img_usage("check", "-r and -U exclude each other: a repair needs the lock");
	img_signals_end();
	if (img_confine(0, 0, &e) < 0 || img_layers_open(&a.common.o, layers, &n, &e) < 0)
		return img_fail(&e);
	st = img_seal(false, &e) < 0 ? img_fail(&e) : check_layer(&a, &layers[0]);
	img_layers_free(layers, n);
	return st;
}
