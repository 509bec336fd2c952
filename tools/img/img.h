/* img: what the verbs of cairn-img share. */
#ifndef CAIRN_TOOLS_IMG_IMG_H
#define CAIRN_TOOLS_IMG_IMG_H

#include "base/err.h"
#include "base/loop.h"
#include "block/block.h"
#include "block/qcow2.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

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
const struct img_verb *img_verb_find(const char *name);
void img_verb_help(const struct img_verb *v);

/* "cairn-img: <sentence>" on stderr; returns 1. */
int img_fail(const struct err *e);
int img_usage(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For getopt's '?'. */
int img_bad_option(const char *verb, const char *opt);

/* A size with an optional suffix k, M, G, T, P, E. Returns 0 or -EINVAL with a sentence. */
int img_parse_size(const char *s, uint64_t *ret, struct err *e);
/* "1.26 MiB" as qemu-img writes it. */
void img_format_size(uint64_t bytes, char *buf, size_t cap);

/* ---- opening ---- */

struct img_open {
	const char *path;
	const char *format; /* NULL: look (qcow2 when the file begins as one) */
	bool writable;
	bool no_lock;
	bool no_backing; /* only the image itself */
	/* Folders below which backing files may lie, besides the image's own. */
	const char *allow[IMG_ALLOW_MAX];
	unsigned nallow;
};
struct img_layer {
	char *path;
	enum block_format format;
	int fd;
	struct qcow2_header header; /* qcow2 */
};
/* The image and its backing chain, opened, each with its header read. Returns 0; a loop, a
 * missing file, a name that is no plain path or leaves the allowed folders: -errno with
 * a sentence. Free with img_layers_free(). */
int img_layers_open(const struct img_open *o, struct img_layer *layers, unsigned *ret_n,
	struct err *e);
void img_layers_free(struct img_layer *layers, unsigned n);
/* The same as a disk. */
int img_block_open(struct loop *l, const struct img_open *o, struct block **ret_b, struct err *e);
/* For --allow: returns 0 or 1 after saying why not. */
int img_allow_add(struct img_open *o, const char *dir);

/* ---- creating ---- */

struct img_create {
	enum block_format format;
	struct qcow2_create qcow2; /* size_bytes also for raw */
	bool has_size;
};
/* Apply "key=value,...". Strings are kept by reference into opts, which is changed. */
int img_create_options(struct img_create *c, char *opts, struct err *e);
/* An empty image over fd. */
int img_create_fd(int fd, const struct img_create *c, struct err *e);

#endif
