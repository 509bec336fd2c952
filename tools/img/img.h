/* img: functions that the verbs of cairn-img share. */
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
#include <string.h>
#include <sys/stat.h>

#define IMG_ALLOW_MAX (2 * BLOCK_LAYERS_MAX) /* each layer may have a data file elsewhere */

/* A verb of cairn-img. run() gets the verb's name as argv[0] and returns the exit status. */
struct img_verb {
	const char *name;
	const char *summary;
	const char *usage; /* text after "cairn-img " */
	const char *help;
	int (*run)(int argc, char **argv);
};
int img_create_main(int argc, char **argv);
int img_info_main(int argc, char **argv);
int img_check_main(int argc, char **argv);
int img_convert_main(int argc, char **argv);
int img_dd_main(int argc, char **argv);
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
int img_bitmap_main(int argc, char **argv);
int img_vmstate_main(int argc, char **argv);

/* Tell that the connection to a server ended. img_fail() then leaves out errors that are only its consequence. */
void img_connection_ended(const char *url, const char *why);
/* Print "cairn-img: <sentence>" on stderr. img_usage() adds a hint to the help. Return 1. */
int img_fail(const struct err *e);
int img_usage(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Print "cairn-img: warning: <sentence>" on stderr. */
void img_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A snapshot as in `qemu-img info`: img_snapshot_heading() and img_snapshot_line() print a table, img_snapshot_json()
 * returns an object, which the caller owns. */
struct json_object;
struct stat;
void img_json_print(struct json_object *o); /* as qemu-img prints JSON */
void img_snapshot_heading(void);
/* Copy a name from an image to buf, with '?' for control characters and invalid bytes, which could steer a terminal.
 * Returns buf. */
const char *img_printable(const char *s, char *buf, size_t cap);
void img_snapshot_line(const struct qcow2_snapshot_info *s);
struct json_object *img_snapshot_json(const struct qcow2_snapshot_info *s);

/* Report an unknown option (getopt's '?'). Returns 1. */
int img_bad_option(const char *verb, const char *opt);

/* Parse a size with an optional suffix k, M, G, T, P or E. Returns 0; -EINVAL with a sentence. */
int img_parse_size(const char *s, uint64_t *ret, struct err *e);
/* Write a size such as "1.26 MiB", like qemu-img. */
void img_format_size(uint64_t bytes, char *buf, size_t cap);

/* ---- long operations (progress.c) ---- */

/* Catch SIGINT, SIGTERM and SIGHUP; the operation then ends cleanly. */
void img_signals_catch(void);
/* Let these signals end the process at once, with the message "interrupted", by SIGINT or with exit status 1. For steps
 * of the engine that survive a crash at any point, and a process without temporary files. Until img_signals_catch(). */
void img_signals_end(void);
bool img_interrupted(void);
/* Write out standard output. If SIGINT has interrupted a verb that failed, end the process by SIGINT.
 * status: of the verb. Returns it, or 1 if it is 0 and the output was not written. */
int img_exit(int status);
/* Returns an fd that is readable once a signal has come, for poll(); -1 without img_signals_catch(). Borrowed. */
int img_interrupt_fd(void);
/* Returns 0; -EINTR with a sentence after a signal. */
int img_check_interrupted(struct err *e);

enum img_progress_mode { IMG_PROGRESS_NONE, IMG_PROGRESS_BAR, IMG_PROGRESS_JSON };
struct img_progress {
	enum img_progress_mode mode;
	FILE *to;
	uint64_t done, total, next_ns;
	int shown; /* progress shown last, in thousandths */
};
void img_progress_set(struct img_progress *p, uint64_t done, uint64_t total);
void img_progress_end(struct img_progress *p, bool ok);

/* A way to open disks that are no files. */
struct img_protocol {
	/* Open `url` as a raw disk.
	 * format, context: as in struct img_open. Returns 0; -errno with a sentence. */
	int (*open)(struct loop *l, const char *url, const char *format, const char *context, bool writable, struct block **ret_b,
		struct err *e);
};
extern const struct img_protocol img_nbd;
#define IMG_URL_BYTES 4096

struct img_open {
	const char *path;
	const char *named; /* the path that the file gets later, from which its backing file is found; NULL: path */
	const struct img_protocol *protocol; /* path is a URL that this protocol opens; NULL: path is a file */
	char url[IMG_URL_BYTES]; /* path may point here */
	const char *format; /* NULL: qcow2 if the file has a qcow2 header, else raw; then only the file itself is written */
	bool writable;
	bool keeps_data; /* the verb changes metadata only, and never the data file */
	bool lazy_bitmaps; /* as in struct block_open */
	bool no_lock; /* for reading only */
	bool no_backing; /* open neither backing files nor the data file */
	bool damaged;	 /* for check: see qcow2_header_read_damaged() */
	bool direct;	 /* use O_DIRECT */
	const char *targets[2]; /* the target of a copy, and its data file, which must not be files of this image; NULL: none */
	int data_fd;	 /* the image's data file, borrowed; 0: the file that the image names */
	const char *snapshot;  /* open the snapshot with this id, else name; NULL: the disk */
	const char *snapshot_id, *snapshot_name; /* if one is set: open the snapshot that has both instead; NULL: any */
	uint64_t cache_bytes;  /* 0: the default of the qcow2 driver */
	/* Takes the name of a backing file that is no path: img_backing_name(). If it is set, the files of a chain may
	 * be in any folder. NULL: a chain with such a name is refused. */
	int (*trust)(struct img_open *o, char *name, struct err *e);
	/* From options of the image (img_name_take()): */
	const char *backing; /* options of the backing file, for take(), as "json:..."; "": read without it; NULL: none */
	int (*take)(struct img_open *o, char *name, struct err *e);
	char backing_text[IMG_URL_BYTES]; /* backing may point here */
	const char *data_path;	     /* the data file, in place of the one that the image names */
	bool ranged;		     /* the disk is a range of a raw file; for reading only */
	uint64_t offset, size_bytes; /* the range; size_bytes 0: up to the end */
	bool takes_context; /* the verb accepts the option of `context` */
	const char *context; /* an NBD server's metadata context, whose flags the extents show; NULL: the disk's
			      * allocation */
	/* Further folders below which backing and data files may be. */
	const char *allow[IMG_ALLOW_MAX + 1]; /* one more than --allow fills */
	unsigned nallow;
};
/* Options of many verbs: -f -U -p -q --allow --format (or --output). */
struct img_common {
	const char *verb;
	bool bar, quiet, json, image_opts;
	struct img_open o; /* a verb with two images uses these options for both */
	struct img_progress progress;
};
/* Values of long options for getopt; from IMG_OPT_OWN on, those that only one verb has. */
enum { IMG_OPT_ALLOW = 256, IMG_OPT_OUTPUT, IMG_OPT_IMAGE_OPTS, IMG_OPT_OBJECT, IMG_OPT_TRUST, IMG_OPT_FD, IMG_OPT_OWN };
#define IMG_COMMON_LONGS                                                                           \
	{ "allow", required_argument, NULL, IMG_OPT_ALLOW },                                       \
		{ "output", required_argument, NULL, IMG_OPT_OUTPUT },                             \
		{ "format", required_argument, NULL, IMG_OPT_OUTPUT },                             \
		{ "force-share", no_argument, NULL, 'U' },                                         \
		{ "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },                           \
		{ "trust-backing", no_argument, NULL, IMG_OPT_TRUST },                             \
		{ "object", required_argument, NULL, IMG_OPT_OBJECT }
extern const struct option img_common_longs[];
/* Refuse --object: its objects hold secrets of encrypted images and of TLS. Returns an exit status. */
int img_object_refuse(const char *verb);
/* Prepare x for img_common_option(). x: zeroed, except for the members of x->o that the verb has set. */
void img_common_init(struct img_common *x, const char *verb);
/* Handle a common option.
 * c: from getopt. arg: its value; for '?', argv[optind - 1].
 * Returns 0; an exit status after an error message. */
int img_common_option(struct img_common *x, int c, const char *arg);
/* Copy the options that hold for both images of a verb (x->o) to one image's options (o). */
void img_common_open(const struct img_common *x, struct img_open *o);
/* Take the name of an image from the command line: a path, or with --image-opts or after "json:" options of the image,
 * which may set the format and switch off locks. Strings in o point into name, which is modified.
 * img_common_name(): with the options of x. Returns 0; an exit status after an error message. */
int img_common_name(struct img_common *x, struct img_open *o, char *name);
/* Returns 0; -EINVAL or -ENOTSUP with a sentence. */
int img_name_take(struct img_open *o, char *name, bool image_opts, struct err *e);
/* Like img_name_take(), for "json:..." or a URL as the name of a backing file. o->format: the format that the image
 * gives for it, which wins over that in the name. */
int img_backing_name(struct img_open *o, char *name, struct err *e);
/* Let o open the backing file that the user names for an image, in any folder. A path is relative to the image's
 * folder. path: 2 * PATH_MAX bytes, which o->path may point to. Returns 0 or -errno. */
int img_backing_take(struct img_open *o, const char *image, const char *name, char *path, struct err *e);
/* Check a cache mode of -t or -T, which have no effect here. Returns 0; an exit status after an error message. */
int img_cache_option(const char *verb, const char *mode);
/* Choose how to show progress, after all options are parsed. */
void img_common_progress(struct img_common *x);
/* Take the value of --fd, FD=PATH, for img_fd_give(). Returns 0; an exit status after an error message. */
int img_fd_option(const char *verb, const char *arg);

/* ---- the sandbox (sandbox.c) ---- */

/* Record the files that the command line names, before img_confine(). */
/* An image, with the folders in which its backing and data files may be. img_common_name() calls this function. */
void img_sandbox_image(const struct img_open *o);
/* The backing file that the user names for an image. like: has the option --trust-backing. anywhere: its own backing
 * files may be in any folder; otherwise in the folder of the file. */
void img_sandbox_backing(const char *image, const char *name, const struct img_open *like, bool anywhere);
/* A file that the verb makes, with its folder. */
void img_sandbox_target(const char *path);
/* Confine the process to these files. This cannot be undone. Call it before the first byte of an image is read, and
 * with one thread.
 * nloops: how many loops the verb needs, at most two, each for that many operations at a time. img_loop() has them; no
 * further ones can be made.
 * Returns 0; -errno with a sentence. */
int img_confine(unsigned nloops, unsigned entries, struct err *e);
/* Returns loop 0 or 1, borrowed. */
struct loop *img_loop(unsigned i);
/* Forbid to open anything more, when the last image is open. renames: files that the verb has made may still be renamed
 * and removed. Returns 0; -errno with a sentence. */
int img_seal(bool renames, struct err *e);
/* Load libnbd, so that a later open needs no executable memory. */
void img_nbd_load(void);

/* ---- opening ---- */

/* Take an open file in place of opening that path, which may lead to another file by now. fd, path: borrowed until the
 * end. Returns 0; -E2BIG: there are IMG_FDS_MAX already. */
#define IMG_FDS_MAX 4
int img_fd_give(int fd, const char *path);
/* Returns the fd of --fd for the path, borrowed; -1: there is none. */
int img_fd_given(const char *path);
/* Open the path as open() does, or duplicate the fd of --fd. Returns an fd; -1 with errno. */
int img_fd_open(const char *path, int flags, mode_t mode);

/* Create the file tmp, which is to replace the file `old` when it is complete. old: -1: there is none.
 * Returns an fd; 0: write to `old` itself, because its folder takes no new file, or a new one would lack old's further
 * names, owner, group, permissions, ACL or other extended attributes; -errno. */
int img_replacement_open(const char *tmp, int old);

/* Get the format from its name; "file" and "host_device" mean raw, as in QEMU's headers. Returns 0; -EINVAL or -ENOTSUP
 * with a sentence. */
/* Return whether QEMU has this format and Cairn does not. */
bool img_format_is_qemus(const char *name);
int img_format_parse(const char *name, enum block_format *ret, struct err *e);

/* Refuse to write to files that the image names if its format was only detected: a guest may have written the header of
 * a raw disk. what: "backing" or "data". Returns 0; -EPERM with a sentence. */
int img_probed_refuse(const struct img_open *o, const char *what, struct err *e);

struct img_layer {
	char *path;
	char *shown; /* the path as the image above names it, seen from the current folder; NULL: path */
	const struct img_protocol *protocol; /* as in struct img_open; then fd is -1 */
	enum block_format format;
	int fd;
	struct qcow2_header header; /* header of a qcow2 image */
	char *data_path; /* external data file; NULL: none */
	int data_fd;	 /* 0: none */
};
/* Open the image and its backing chain and read each header.
 * layers: room for BLOCK_LAYERS_MAX. ret_n: number of layers. Free with img_layers_free() on success.
 * Returns 0; -errno with a sentence, for example for a loop, a missing file, or a name that is no local path or outside
 * the allowed folders. */
int img_layers_open(const struct img_open *o, struct img_layer *layers, unsigned *ret_n,
	struct err *e);
/* Like img_layers_open(), but the image may be a URL instead of a file. */
int img_disk_layers_open(const struct img_open *o, struct img_layer *layers, unsigned *ret_n, struct err *e);
/* Is this the beginning of a qcow2 image? buf: 4 bytes. */
bool img_is_qcow2(const void *buf);
void img_layers_free(struct img_layer *layers, unsigned n);
/* Returns the path to print as a result. */
static inline const char *img_layer_shown(const struct img_layer *y)
{
	return y->shown ? y->shown : y->path;
}
/* Open n layers as a disk. bo: its other members are set. The files are taken on success. Returns 0; -errno with a
 * sentence. */
int img_layers_join(struct loop *l, struct img_layer *layers, unsigned n, struct block_open *bo, struct block **ret_b,
	struct err *e);
/* Returns the layer's files for block_open(), which takes the fds on success. Then call img_layer_given(), so that
 * img_layers_free() does not close them. */
struct block_layer img_layer_files(const struct img_layer *y);
void img_layer_given(struct img_layer *y);
/* Open the layer's files again, for writing. Returns 0 or -errno. */
int img_layer_reopen(struct img_layer *y, struct err *e);
/* Open the image and its backing chain as a disk. Returns 0; -errno with a sentence. */
int img_block_open(struct loop *l, const struct img_open *o, struct block **ret_b, struct err *e);
/* Get the path of the backing file from the name in the header. If that is the name of a pin (base/pin_name.h), get the
 * path in it. */
void img_backing_path(const struct qcow2_header *h, char ret[QCOW2_BACKING_NAME_MAX + 1]);
/* As qcow2_snapshots_read(). With -U, another process may have the image open for writing: it writes a new snapshot
 * table and frees the old one, whose clusters then get other content. So this reads again while the header names
 * another table than before, and sets the layer's header to name that table. */
int img_snapshots_read(struct img_layer *y, struct qcow2_snapshot_info **ret_list, size_t *ret_n, struct err *e);
/* Refuse a verb such as rebase or commit if the image has pins (docs/qcow2.md): a pin reads the clusters that it lacks
 * from the backing file, so its content would change. Returns 0 if the image has no pins; -EBUSY; -errno. */
int img_pins_refuse(const struct img_layer *y, const char *verb, struct err *e);
/* Refuse an image with internal snapshots or pins: they read the clusters that they lack from its backing file.
 * Returns 0; -EBUSY, -ENOTSUP with a sentence. */
int img_snapshots_refuse(const struct img_layer *y, const char *verb, struct err *e);
/* Get the size of the range that o selects of a disk. Returns 0; -EINVAL with a sentence. */
int img_range_bytes(const struct img_open *o, uint64_t disk_bytes, uint64_t *ret, struct err *e);
/* Print the path that a name in an image has: relative names are relative to the folder of the image. */
void img_path_beside(const char *image, const char *name, char *ret, size_t cap);
/* Print the path of the file to which a name leads by symbolic links, whether there is such a file or not. */
void img_path_follow(const char *path, char ret[2 * PATH_MAX]);
/* As stat(), but a path of --fd means that file. Returns 0 or -errno. */
int img_stat(const char *path, struct stat *ret);
static inline bool img_same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}
/* Refuse a path that is neither a file nor a block device. Returns 0; -EINVAL with a sentence. */
int img_kind_check(const struct stat *st, const char *path, struct err *e);
/* Returns the path in a name: what follows "file:", or the name itself. */
#define img_name_path(name) (strncmp((name), "file:", 5) ? (name) : (name) + 5)
/* Return whether the name is a URL such as "nbd://..." or "json:{...}" instead of a path; "file:" counts as one. */
bool img_has_protocol(const char *name);
/* Get the folder of a path. */
void img_folder_of(const char *path, char *ret, size_t cap);
/* Return whether the name is neither a path nor "file:PATH". */
#define img_is_no_path(name) (img_name_path(name) == (name) && img_has_protocol(name))
/* Refuse a backing file that has as many layers as a disk can have: an overlay on it could not be opened.
 * name: as the user gave it. Returns 0; -EINVAL with a sentence. */
int img_depth_check(const struct block *backing, const char *name, struct err *e);
/* Close a disk that was written; NULL: none. r: the result so far. Returns r; 0 becomes -errno with a sentence if the
 * last writes fail. */
int img_block_close(struct block *b, const char *path, int r, struct err *e);
/* Open the image as a disk, run work() on it, and close it.
 * work: returns 0; -errno with a sentence.
 * Returns 0; -errno with a sentence, also if a writable image cannot be closed. */
int img_block_run(struct loop *l, const struct img_open *o, int (*work)(struct block *b, void *opaque, struct err *e), void *opaque,
	struct err *e);
/* Open a qcow2 image without its backing files, to change its header: lock the image, then read and check the header.
 * has_none: the feature that a raw image lacks, for the error.
 * Returns 0; -errno with a sentence. Free with img_layers_free() on success. */
int img_header_open(const struct img_open *o, const char *has_none, struct img_layer *layers, unsigned *ret_n, struct err *e);

/* Check that all bitmaps of an image can be copied. skip_broken: print a warning for each inconsistent one instead.
 * Returns 0; -errno with a sentence. */
int img_bitmaps_check(const struct block *from, bool skip_broken, struct err *e);
/* Copy all bitmaps but inconsistent ones, after the last write to `to`. Returns 0; -errno with a sentence. */
int img_bitmaps_copy(const struct block *from, struct block *to, struct err *e);

/* ---- creating ---- */

enum img_prealloc { IMG_PREALLOC_OFF, IMG_PREALLOC_METADATA, IMG_PREALLOC_FALLOC, IMG_PREALLOC_FULL };
int img_prealloc_word(const char *w, enum img_prealloc *ret, struct err *e);
/* Write zeros as data to [off, end); stop early after a signal. p: may be NULL. Returns 0 or -errno. */
int img_zeros_write(struct block *b, uint64_t off, uint64_t end, struct img_progress *p);
/* Allocate space from `from` to the end of the disk. p: may be NULL. Returns 0 or -errno. */
int img_preallocate(struct block *b, enum img_prealloc how, uint64_t from, struct img_progress *p,
	struct err *e);

struct img_create {
	enum block_format format;
	struct qcow2_create qcow2; /* size_bytes also counts for raw */
	bool has_size, names_encryption, names_nocow, names_extent_hint; /* -o size, encryption=off, nocow=off, ... */
	uint64_t extent_hint_bytes;
	enum img_prealloc prealloc;
	const char *compat, *prealloc_word; /* the values in the options; NULL: not given */
};
#define IMG_CREATE_DEFAULT                                                                         \
	{ .format = BLOCK_FORMAT_RAW,                                                              \
		.qcow2 = { .cluster_bits = 16, .refcount_order = 4, .version = 3 } }
/* Set the format of -f or -O. Returns 0; an exit status after an error message. */
int img_create_format(struct img_create *c, const char *verb, const char *name);
/* Warn about a new raw image whose name says qcow2. verb: "create" or "convert". */
void img_create_warn_name(const struct img_create *c, const char *verb, const char *path);
/* Take the argument of -l, which is modified: "snapshot.name=X", "snapshot.id=X", both with a comma, or X.
 * Returns 0; an exit status after an error message. */
int img_snapshot_option(struct img_open *o, const char *verb, char *arg);
/* Apply "key=value,...". Strings point into opts, which is modified. */
int img_create_options(struct img_create *c, char *opts, struct err *e);

/* All strings of -o, in the order of the command line. Only pointers to the arguments are kept. */
struct img_options {
	char *list[16];
	unsigned n;
};
/* Add one string. Returns 0; an exit status after an error message. */
int img_options_add(struct img_options *o, const char *verb, char *arg);
/* Return whether one of the options is "help" or "?". */
bool img_options_ask_help(const struct img_options *o);
/* List the options of the format on standard output, like qemu-img. amend: only those that `amend` changes. */
void img_options_help(enum block_format format, bool amend);
/* Return the key of the i-th option of an image, for suggest_hint(); NULL: there are no more. */
const char *img_options_key_at(const void *opaque, size_t i);
/* Apply all options to c, see img_create_options(). */
int img_options_apply(struct img_create *c, const struct img_options *o, struct err *e);
/* Split options at commas; ",," stands for a comma within a value. The text is modified.
 * at: in: the rest of the text; out: the text behind the option; NULL: the end.
 * Returns the next option; NULL at the end. */
char *img_option_next(char **at);
/* The data file of a new image. A file is written under a temporary name and renamed at the end, when it replaces an
 * existing file, which is locked meanwhile, except as img_replacement_open() says. A device is written directly. */
struct img_data {
	int fd; /* 0: none */
	char path[PATH_MAX], tmp[PATH_MAX];
	int old_fd;
	bool is_device;
};
/* img_sandbox_target() of the data file, if c names one. */
void img_sandbox_data(const char *image, const struct qcow2_create *c);
/* Create the data file, if c names one.
 * image: path of the future image; the name of the data file is relative to its folder.
 * Returns 0 or -errno. Call img_data_finish() in either case. */
int img_data_make(struct img_data *d, const char *image, const struct qcow2_create *c, struct err *e);
/* Set the file's size, or refuse a device that is smaller. Returns 0 or -errno. */
int img_data_size(struct img_data *d, uint64_t size_bytes, struct err *e);
/* Keep or remove the data file. r: result of the work. Returns r; -errno if keeping the file failed. */
int img_data_finish(struct img_data *d, int r, struct err *e);
/* Returns the effective preallocation: at least metadata with a raw data file, which needs all clusters mapped; at
 * most falloc with a backing file. */
enum img_prealloc img_create_prealloc(const struct img_create *c);
/* Write an empty image to fd. Returns 0; -errno with a sentence. */
int img_create_fd(int fd, const struct img_create *c, struct err *e);

#endif
