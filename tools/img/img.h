/* img: what the verbs of cairn-img share. */
#ifndef CAIRN_TOOLS_IMG_IMG_H
#define CAIRN_TOOLS_IMG_IMG_H

#include "base/err.h"
#include "base/loop.h"
#include "block/block.h"
#include "block/qcow2/qcow2.h"

#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define IMG_ALLOW_MAX 8

/* A verb: argv[0] is its name. Returns the exit status. */
struct img_verb {
	const char *name;
	const char *summary;
	const char *usage; /* after "cairn-img " */
	const char *help;
	int (*run)(int argc, char **argv);
};
int img_create_main(int argc, char **argv);
int img_info_main(int argc, char **argv);
int img_check_main(int argc, char **argv);
int img_convert_main(int argc, char **argv);
int img_compare_main(int argc, char **argv);
int img_map_main(int argc, char **argv);
int img_resize_main(int argc, char **argv);
int img_measure_main(int argc, char **argv);
int img_rebase_main(int argc, char **argv);
int img_commit_main(int argc, char **argv);
int img_amend_main(int argc, char **argv);
int img_bench_main(int argc, char **argv);
int img_trim_main(int argc, char **argv);
int img_snapshot_main(int argc, char **argv);
int img_vmstate_main(int argc, char **argv);
const struct img_verb *img_verb_find(const char *name);
void img_verb_help(const struct img_verb *v);

/* "cairn-img: <sentence>" on stderr; returns 1. */
int img_fail(const struct err *e);
int img_usage(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A snapshot as a line below the heading, as in `qemu-img info`; as JSON. */
struct json_object;
void img_snapshot_heading(void);
/* A name out of an image, without what would steer a terminal. Returns buf. */
const char *img_printable(const char *s, char *buf, size_t cap);
void img_snapshot_line(const struct qcow2_snapshot_info *s);
struct json_object *img_snapshot_json(const struct qcow2_snapshot_info *s);

/* For getopt's '?'. */
int img_bad_option(const char *verb, const char *opt);

/* A size with an optional suffix k, M, G, T, P, E. Returns 0 or -EINVAL with a sentence. */
int img_parse_size(const char *s, uint64_t *ret, struct err *e);
/* "1.26 MiB" as qemu-img writes it. */
void img_format_size(uint64_t bytes, char *buf, size_t cap);

/* ---- what long work has in common (progress.c) ---- */

/* SIGINT, SIGTERM and SIGHUP end the work in hand, tidily. */
void img_signals_catch(void);
bool img_interrupted(void);
/* 0, or -EINTR with a sentence. */
int img_check_interrupted(struct err *e);

enum img_progress_mode { IMG_PROGRESS_NONE, IMG_PROGRESS_BAR, IMG_PROGRESS_JSON };
struct img_progress {
	enum img_progress_mode mode;
	FILE *to;
	uint64_t done, total, next_ns;
	int shown; /* thousandths */
};
void img_progress_set(struct img_progress *p, uint64_t done, uint64_t total);
void img_progress_end(struct img_progress *p, bool ok);

/* Options that many verbs have: -U -p -q --allow --format (or --output). */
struct img_common {
	const char *verb;
	bool no_lock, bar, quiet, json;
	const char *allow[IMG_ALLOW_MAX];
	unsigned nallow;
	struct img_progress progress;
};
enum { IMG_OPT_ALLOW = 256, IMG_OPT_OUTPUT, IMG_OPT_IMAGE_OPTS, IMG_OPT_OWN };
#define IMG_COMMON_LONGS                                                                           \
	{ "allow", required_argument, NULL, IMG_OPT_ALLOW },                                       \
		{ "output", required_argument, NULL, IMG_OPT_OUTPUT },                             \
		{ "format", required_argument, NULL, IMG_OPT_OUTPUT },                             \
		{ "force-share", no_argument, NULL, 'U' },                                         \
		{ "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS }
extern const struct option img_common_longs[];
void img_common_init(struct img_common *x, const char *verb);
/* For getopt's default case, '?' with argv[optind - 1] as arg. 0, or an exit status. */
int img_common_option(struct img_common *x, int c, const char *arg);
struct img_open;
void img_common_open(const struct img_common *x, struct img_open *o);
/* Decide how progress is shown, once the options are read. */
void img_common_progress(struct img_common *x);

/* ---- opening ---- */

struct img_open {
	const char *path;
	const char *format; /* NULL: look (qcow2 when the file begins as one) */
	bool writable;
	bool no_lock;
	bool no_backing; /* only the image itself, without its data file */
	bool direct;	 /* O_DIRECT */
	const char *snapshot;  /* read that one; NULL: the disk */
	uint64_t cache_bytes;  /* 0: the engine's default */
	/* Folders below which backing and data files may lie, besides the image's own. */
	const char *allow[IMG_ALLOW_MAX];
	unsigned nallow;
};
struct img_layer {
	char *path;
	enum block_format format;
	int fd;
	struct qcow2_header header; /* qcow2 */
	char *data_path; /* its external data file; NULL: none */
	int data_fd;	 /* 0: none */
};
/* The image and its backing chain, opened, each with its header read. Returns 0; a loop, a
 * missing file, a name that is no plain path or leaves the allowed folders: -errno with
 * a sentence. Free with img_layers_free(). */
int img_layers_open(const struct img_open *o, struct img_layer *layers, unsigned *ret_n,
	struct err *e);
void img_layers_free(struct img_layer *layers, unsigned n);
/* What block_open() takes; the fds stay the layer's until img_layer_given(). */
struct block_layer img_layer_files(const struct img_layer *y);
void img_layer_given(struct img_layer *y);
/* Open its files anew, for writing. Returns 0 or -errno. */
int img_layer_reopen(struct img_layer *y, struct err *e);
/* The same as a disk. */
int img_block_open(struct loop *l, const struct img_open *o, struct block **ret_b, struct err *e);
/* "nbd://…", "json:{…}": no plain path. */
bool img_has_protocol(const char *name);
/* For --allow: returns 0 or 1 after saying why not. */
int img_allow_add(struct img_open *o, const char *dir);

/* ---- creating ---- */

enum img_prealloc { IMG_PREALLOC_OFF, IMG_PREALLOC_METADATA, IMG_PREALLOC_FALLOC, IMG_PREALLOC_FULL };
int img_prealloc_word(const char *w, enum img_prealloc *ret, struct err *e);
/* Zeros into [off, end), as data; ends early when it is interrupted. p: NULL allowed. 0 or -errno. */
int img_zeros_write(struct block *b, uint64_t off, uint64_t end, struct img_progress *p);
/* Space for [from, the end). p: NULL allowed. */
int img_preallocate(struct block *b, enum img_prealloc how, uint64_t from, struct img_progress *p,
	struct err *e);

struct img_create {
	enum block_format format;
	struct qcow2_create qcow2; /* size_bytes also for raw */
	bool has_size;
	enum img_prealloc prealloc;
};
#define IMG_CREATE_DEFAULT                                                                         \
	{ .format = BLOCK_FORMAT_RAW,                                                              \
		.qcow2 = { .cluster_bits = 16, .refcount_order = 4, .version = 3 } }
/* For -f and -O: returns 0 or an exit status. */
int img_create_format(struct img_create *c, const char *verb, const char *name);
/* For -l: "snapshot.name=X", "snapshot.id=X" or X. */
const char *img_snapshot_word(const char *arg);
/* Apply "key=value,...". Strings are kept by reference into opts, which is changed. */
int img_create_options(struct img_create *c, char *opts, struct err *e);
/* The data file of a new image: written beside what may be there, which is locked, and put in its
 * place at the end. */
struct img_data {
	int fd; /* 0: none is wanted */
	char path[PATH_MAX], tmp[PATH_MAX];
	int old_fd;
	bool is_device;
};
/* image: where the image will be; names are relative to its folder. d can be finished in any case.
 * Returns 0 or -errno. */
int img_data_make(struct img_data *d, const char *image, const struct qcow2_create *c, struct err *e);
int img_data_size(struct img_data *d, uint64_t size_bytes, struct err *e);
/* r: how the work ended. Returns it, or the first error. */
int img_data_finish(struct img_data *d, int r, struct err *e);
/* What is needed of preallocation: a raw data file has all clusters named. */
enum img_prealloc img_create_prealloc(const struct img_create *c);
/* An empty image over fd. */
int img_create_fd(int fd, const struct img_create *c, struct err *e);

#endif
