/* cairn-img: the table of verbs with their help. Options and output follow qemu-img. */
#include "img.h"

#include "base/err.h"
#include "base/log.h"
#include "base/program.h"
#include "base/suggest.h"
#include "base/utf8.h"
#include "base/util.h"
#include "block/lock.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#define FORMAT_HELP                                                                                \
	"  -f FMT         set the format of the image: raw or qcow2 [detected]\n"
#define TRUST_HELP                                                                                 \
	"  --trust-backing  follow all names of backing and data files, also json: and nbd:\n"
#define ALLOW_HELP                                                                                 \
	"  --allow DIR    accept backing and data files below DIR too [only below the\n"           \
	"                 folder of the image that names them]\n" TRUST_HELP
#define OPEN_HELP                                                                                  \
	FORMAT_HELP                                                                                \
	"  -U             do not lock the image: read it while a VM uses it\n" ALLOW_HELP            \
	"  --image-opts   take options instead of the image's name: driver=qcow2,file.filename=NAME\n"

#define FD_HELP                                                                                    \
	"  --fd FD=PATH   take the open file FD in place of opening PATH\n"
#define PROGRESS_HELP                                                                              \
	"  -p             show a progress bar\n"                                                    \
	"  --format json  print progress and result as lines of JSON\n"

static const struct img_verb verbs[] = {
	{ "create", "create an empty image", "create [-p] [-q] [-f FMT] [-o OPTIONS] [-b FILE -F FMT] FILE [SIZE]",
		"  -f FMT         set the format of the image: raw or qcow2 [raw]\n"
		"  -b FILE        create an overlay on the backing file FILE\n"
		"  -F FMT         set the format of the backing file; required with -b\n"
		"  -u             do not open the backing file; requires SIZE\n"
		TRUST_HELP FD_HELP
		"  -p             show a progress bar of preallocation=full\n"
		"  -q             print errors only\n"
		"  -o OPTIONS     set options, as key=value separated by commas: size,\n"
		"                 compat (1.1 or 0.10) [1.1], cluster_size (512 to 2M) [64k],\n"
		"                 refcount_bits (1 to 64) [16], lazy_refcounts (on or off) [off],\n"
		"                 extended_l2 (on or off) [off], compression_type (zlib or zstd)\n"
		"                 [zlib], backing_file, backing_fmt, preallocation (off, metadata,\n"
		"                 falloc or full) [off], data_file, data_file_raw (on or off) [off];\n"
		"                 \"help\" lists the options of the format\n"
		"SIZE is in bytes, has a suffix k, M, G, T, P or E, or is a hexadecimal number after 0x.\n"
		"An existing FILE is overwritten unless a VM or another program has it open.\n",
		img_create_main },
	{ "info", "show format, size and options of an image",
		"info [-f FMT] [-U] [--output human|json] [--backing-chain] FILE",
		OPEN_HELP
		"  --output FMT   set the output format: human or json [human]\n"
		"  --backing-chain  show the backing files too\n",
		img_info_main },
	{ "check", "check and repair the tables of an image",
		"check [-p] [-q] [-f FMT] [-r leaks|all] [-U] [--output human|json] FILE", OPEN_HELP
		"  -r leaks       free leaked clusters\n"
		"  -r all         repair everything: rebuild refcounts, replace invalid table entries\n"
		"                 by zeros, clear the dirty and corrupt flags\n"
		"  --output FMT   set the output format: human or json [human]\n"
		"  -p             show a progress bar\n"
		"  -q             print nothing; only set the exit status\n"
		"Exit status, after any repair: 0 no errors, 1 the check failed, 2 corrupt, 3 leaked clusters\n"
		"only (wasted space, no danger), 63 the format has no tables.\n",
		img_check_main },
	{ "convert", "copy a disk to another image",
		"convert [-c] [-n] [-p] [-q] [-f FMT] [-O FMT] [-o OPTIONS] [-B FILE -F FMT] [-l SNAPSHOT]\n"
		"         [-S SIZE] [-r RATE] [--salvage] [--bitmaps] [-U] SOURCE... TARGET|-", OPEN_HELP
		"  -O FMT         set the format of the target: raw or qcow2 [raw]\n"
		"  -o OPTIONS     set options of the target, see `cairn-img help create`\n"
		"  -B FILE        make TARGET an overlay on the backing file FILE: copy only what SOURCE\n"
		"                 itself has, not what it reads from its own backing file\n"
		"  -F FMT         set the format of the backing file; required with -B\n"
		"  -c             compress, on up to 64 processors (see -o compression_type)\n"
		"  -l SNAPSHOT    copy an internal snapshot, given by id or name\n"
		"  -S SIZE        store zeros as data if a run of them is shorter than SIZE; 0: store all\n"
		"                 zeros [4k]\n"
		"  -r RATE        limit the copy to RATE bytes a second [no limit]\n"
		"  --bitmaps      copy the persistent bitmaps of a single qcow2 SOURCE too\n"
		"  --skip-broken-bitmaps  with --bitmaps: leave out inconsistent bitmaps\n"
		"  --salvage      store zeros for blocks that cannot be read, and print their offsets\n"
		"  -n             write into the existing TARGET\n"
		"  --target-image-opts  with -n: take options instead of the name of TARGET\n"
		"  --target-is-zero  with -n: assume that TARGET reads as zeros\n" FD_HELP PROGRESS_HELP
		"Several SOURCEs are copied one behind the other. Zeros are not stored. A new TARGET file\n"
		"appears when it is complete, and not at all after a failure or Ctrl-C; a device, and a file of\n"
		"--fd, are written directly. TARGET '-' writes a raw image to standard output. The options -C, -m,\n"
		"-W, -t and -T of qemu-img are accepted and have no effect.\n",
		img_convert_main },
	{ "dd", "copy a range of a disk to another image",
		"dd [-f FMT] [-O FMT] [-U] [bs=SIZE] [count=N] [skip=N] if=SOURCE of=TARGET", OPEN_HELP
		"  -O FMT         set the format of the target: raw or qcow2 [raw]\n"
		"  bs=SIZE        set the size of a block [512]\n"
		"  skip=N         leave out the first N blocks of SOURCE [0]\n"
		"  count=N        stop N blocks behind the start of SOURCE [at its end]\n"
		"As in qemu-img, the blocks of `skip` are among those of `count`. TARGET is made anew.\n",
		img_dd_main },
	{ "compare", "compare the content of two images",
		"compare [-p] [-q] [-s] [-f FMT] [-F FMT] [-U] FILE FILE", OPEN_HELP
		"  -F FMT         set the format of the second image [detected]\n"
		"  -s             compare sizes and allocation too\n" PROGRESS_HELP
		"Without -s, images of different sizes are identical if the rest of the longer one is zeros.\n"
		"Exit status: 0 identical, 1 different, 2 an image cannot be opened, 3 or 4 an image\n"
		"cannot be read.\n",
		img_compare_main },
	{ "map", "show the allocation of an image",
		"map [-f FMT] [-U] [-s OFFSET] [-l LENGTH] [--output human|json] FILE", OPEN_HELP
		"  -s OFFSET      start at OFFSET (--start-offset) [0]\n"
		"  -l LENGTH      stop after LENGTH bytes (--max-length) [the whole disk]\n"
		"  --output FMT   set the output format: human (data and its file) or json (all extents)\n"
		"                 [human]\n",
		img_map_main },
	{ "resize", "change the size of a disk",
		"resize [-p] [-q] [-f FMT] [--shrink] [--preallocation=MODE] FILE [+|-]SIZE",
		FORMAT_HELP ALLOW_HELP
		"  --shrink       allow a smaller size, which discards the data beyond the new end\n"
		"  --preallocation MODE  allocate the added space: off, metadata, falloc or full [off]\n"
		FD_HELP PROGRESS_HELP
		"+SIZE and -SIZE are relative to the present size. Internal snapshots keep their sizes.\n",
		img_resize_main },
	{ "measure", "show the file size that a new image would need",
		"measure [--output human|json] [-O FMT] [-o OPTIONS] [-l SNAPSHOT] [-f FMT] [-U]\n"
		"         --size SIZE | FILE", OPEN_HELP
		"  -O FMT         set the format of the new image: raw or qcow2 [raw]\n"
		"  -o OPTIONS     set options of the new image, see `cairn-img help create`\n"
		"  --size SIZE    measure an empty disk of this size\n",
		img_measure_main },
	{ "rebase", "change the backing file of an image",
		"rebase [-p] [-q] [-f FMT] [-u] -b FILE [-F FMT] IMAGE", FORMAT_HELP ALLOW_HELP
		"  -b FILE        set the new backing file; \"\" for none\n"
		"  -F FMT         set the format of the new backing file; required with -b\n"
		"  -u             only change the name: for a backing file that has moved\n" PROGRESS_HELP
		"The disk keeps its content: the verb first copies the differences between the old and the\n"
		"new backing file into the image.\n",
		img_rebase_main },
	{ "commit", "commit an image's changes to its backing file", "commit -f FMT [-b BASE | -d] [-r RATE] [-p] [-q] FILE",
		"  -f FMT         set the format of the image: qcow2 (required)\n" ALLOW_HELP
		"  -b BASE        commit to BASE, a backing file further down, the changes of all images\n"
		"                 above it too; implies -d\n"
		"  -d             do not empty the image afterwards\n"
		"  -r RATE        limit the copy to RATE bytes a second [no limit]\n" PROGRESS_HELP,
		img_commit_main },
	{ "amend", "change options of an image in place", "amend [-f FMT] -o OPTIONS FILE",
		FORMAT_HELP ALLOW_HELP
		"  -o OPTIONS     change compat (1.1 or 0.10), lazy_refcounts, refcount_bits, size,\n"
		"                 data_file or data_file_raw=off\n",
		img_amend_main },
	{ "trim", "free unused space in an image's file", "trim [--zeros] [-p] [-q] [-f FMT] FILE",
		FORMAT_HELP ALLOW_HELP
		"  --zeros        free clusters that hold only zeros too\n" PROGRESS_HELP
		"Unreferenced space becomes holes, and the file is truncated behind the last used cluster.\n",
		img_trim_main },
	{ "snapshot", "create, apply, delete or list internal snapshots",
		"snapshot [-c NAME | -a SNAPSHOT | -d SNAPSHOT | -l] [--own-size] [-p] [-q] [-f FMT] [-U] FILE",
		OPEN_HELP
		"  -l             list the snapshots [default]\n"
		"  --own-size     with -l: show for each snapshot the space that only it uses\n"
		"  -c NAME        create a snapshot of the disk\n"
		"  -a SNAPSHOT    revert the disk to the snapshot; the present content is lost\n"
		"  -d SNAPSHOT    delete the snapshot and free its space\n"
		"  --output FMT   with -l: set the output format: human or json [human]\n" PROGRESS_HELP
		"SNAPSHOT is a name, or an id if no snapshot has that name. The image must not be in use.\n",
		img_snapshot_main },
	{ "bitmap", "change the persistent dirty bitmaps of an image",
		"bitmap ACTION... [-b SOURCE [-F FMT]] [-g GRANULARITY] [-f FMT] FILE BITMAP",
		"  --add          add the bitmap, enabled: it records all writes to the disk\n"
		"  --remove       remove the bitmap\n"
		"  --clear        clear the bitmap: forget the recorded writes\n"
		"  --enable       let the bitmap record writes\n"
		"  --disable      let the bitmap keep what it has recorded\n"
		"  --merge OTHER  add what bitmap OTHER has recorded\n"
		"  -b SOURCE      with --merge: take OTHER from the image SOURCE [FILE]\n"
		"  -F FMT         with -b: set the format of SOURCE [detected]\n"
		"  -g GRANULARITY with --add: set the bytes for each bit, a power of 2 of 512 or more\n"
		"                 [cluster size, but 4k to 64k]\n" FORMAT_HELP ALLOW_HELP
		"Several ACTIONs are done in their order. The image must not be in use.\n",
		img_bitmap_main },
	{ "vmstate-info", "show the content of a saved VM state",
		"vmstate-info [-U] [--output human|json] FILE [SNAPSHOT]",
		"  -U             do not lock the image: read it while a VM uses it\n"
		"  --output FMT   set the output format: human or json [human]\n"
		"FILE is a saved state, or an image; then SNAPSHOT selects a snapshot [the last one with a VM\n"
		"state].\n",
		img_vmstate_main },
	{ "bench", "measure the speed of an image",
		"bench [-c COUNT] [-d DEPTH] [-f FMT] [-s SIZE] [-S STEP] [-o OFFSET] [-t CACHE] [-w]\n"
		"         [--random] [--pattern BYTE] [--flush-interval N] [--no-drain] [-q] [-U] FILE",
		OPEN_HELP
		"  -c COUNT       send COUNT requests [75000]\n"
		"  -d DEPTH       keep DEPTH requests in flight [64]\n"
		"  -s SIZE        set the size of a request in bytes [4096]\n"
		"  -S STEP        set the distance between two requests in bytes [SIZE]\n"
		"  -o OFFSET      start at OFFSET [0]\n"
		"  --random       use random offsets\n"
		"  -w             write; destroys the data of the image\n"
		"  --pattern BYTE set the value of the written bytes [0]\n"
		"  --flush-interval N  flush after every N writes [never]\n"
		"  --no-drain     do not wait for the requests in flight before a flush\n"
		"  -t CACHE       set the cache mode: writeback, none (O_DIRECT), writethrough (each write is\n"
		"                 durable when it ends) or directsync (both) [writeback]\n"
		"  --cache-bytes N  limit the cache of the image's tables\n"
		"  --format json  print the result as a line of JSON\n",
		img_bench_main },
};

static const struct img_verb *img_verb_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

static void img_verb_help(const struct img_verb *v)
{
	printf("Usage: cairn-img %s\n\n%c%s.\n\n%s", v->usage, v->summary[0] - 32, v->summary + 1,
		v->help);
}

/* The lost connection has been reported; do not report an error that follows from it. */
static bool connection_told;

void img_connection_ended(const char *url, const char *why)
{
	char reason[ERR_SENTENCE_MAX];

	fprintf(stderr, "%s: %s: the connection to the server ended: %s\n", program_invocation_short_name, url,
		img_printable(why, reason, sizeof(reason)));
	connection_told = true;
}

static bool follows_from_connection(const char *msg)
{
	const char *end = strerror(ENOTCONN);
	size_t n = strlen(msg), m = strlen(end);

	return connection_told && n >= m && !strcmp(msg + n - m, end);
}

int img_fail(const struct err *e)
{
	bool written = e->cls == ERR_BUSY && strstr(e->msg, LOCK_WRITTEN);

	if (!follows_from_connection(e->msg))
		fprintf(stderr, "%s: %s%s\n", program_invocation_short_name, e->msg,
			written ? "\nTry -U to open the image without a lock and accept an inconsistent view." : "");
	return 1;
}

void img_warn(const char *fmt, ...)
{
	char text[ERR_SENTENCE_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	utf8_clean(text); /* images name their bitmaps */
	fprintf(stderr, "%s: warning: %s\n", program_invocation_short_name, text);
}

int img_usage(const char *verb, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry `cairn-img help%s%s`.\n", verb ? " " : "", verb ? verb : "");
	return 1;
}

/* The long options that the help of a verb has. */
struct long_options {
	char text[4096]; /* their names, each ended by a zero */
	const char *names[40];
	size_t n;
};

static void long_options_read(struct long_options *l, const char *help)
{
	snprintf(l->text, sizeof(l->text), "%s", help);
	for (char *at = strstr(l->text, "--"); at && l->n < ARRAY_SIZE(l->names); at = strstr(at, "--")) {
		char *name = at + 2, *end = name + strspn(name, "abcdefghijklmnopqrstuvwxyz-");

		l->names[l->n++] = name;
		at = end + (*end != 0);
		*end = 0;
	}
}

static const char *long_option_at(const void *opaque, size_t i)
{
	const struct long_options *l = opaque;

	return i < l->n ? l->names[i] : NULL;
}

/* getopt sets optopt for a long option that it knows, and leaves 0 for others. */
static int bad_long_option(const char *verb, const char *opt)
{
	const struct img_verb *v = img_verb_find(verb);
	struct long_options l = { 0 };
	char word[64], hint[SUGGEST_HINT_BYTES];

	if (optopt)
		return img_usage(verb, "%.*s %s", (int)strcspn(opt, "="), opt, strchr(opt, '=') ? "takes no value" : "needs a value");
	if (v)
		long_options_read(&l, v->help);
	snprintf(word, sizeof(word), "%.*s", (int)strcspn(opt + 2, "="), opt + 2);
	return img_usage(verb, "unknown option '%s' of %s%s", opt, verb, suggest_hint(word, "--", long_option_at, &l, hint));
}

int img_bad_option(const char *verb, const char *opt)
{
	const struct img_verb *v = img_verb_find(verb);
	char known[8];

	if (!strncmp(opt, "--", 2))
		return bad_long_option(verb, opt);
	snprintf(known, sizeof(known), "-%c ", optopt);
	if (v && (strstr(v->help, known) || (strchr("tT", optopt) && strstr("check compare rebase commit amend", verb))))
		return img_usage(verb, "-%c needs a value", optopt);
	return img_usage(verb, "unknown option '-%c' of %s", optopt, verb);
}

static const char *verb_name_at(const void *opaque, size_t i)
{
	(void)opaque;
	return i < ARRAY_SIZE(verbs) ? verbs[i].name : NULL;
}

/* Words that users type for a verb. */
static const struct {
	const char *word, *verb;
} verb_words[] = { { "repair", "check -r all" }, { "fix", "check -r all" }, { "copy", "convert" }, { "clone", "convert" }, { "cp", "convert" },
	{ "flatten", "convert" }, { "merge", "commit" }, { "shrink", "resize --shrink" }, { "grow", "resize" }, { "diff", "compare" },
	{ "cmp", "compare" }, { "new", "create" }, { "ls", "info" }, { "list", "info" }, { "show", "info" } };

static int verb_missing(const char *verb)
{
	char hint[SUGGEST_HINT_BYTES];

	for (size_t i = 0; i < ARRAY_SIZE(verb_words); i++)
		if (!strcmp(verb_words[i].word, verb))
			return img_usage(NULL, "unknown verb '%s'; the verb for this is %s", verb, verb_words[i].verb);
	return img_usage(NULL, "unknown verb '%s'%s", verb, suggest_hint(verb, "", verb_name_at, NULL, hint));
}

static int help_print(const char *verb)
{
	const struct img_verb *v = verb ? img_verb_find(verb) : NULL;

	if (v) {
		img_verb_help(v);
		return 0;
	}
	if (verb)
		return verb_missing(verb);
	printf("Usage: cairn-img VERB [options]\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		printf("  %-12s %s\n", verbs[i].name, verbs[i].summary);
	printf("\nAn image is a file, a block device, or for verbs that only read and write a disk's content an\n"
		"NBD export: nbd:HOST:PORT[:exportname=NAME], nbd:unix:PATH[:exportname=NAME],\n"
		"nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH.\n"
		"`cairn-img help VERB` shows the options of a verb, man cairn-img has examples.\n");
	return 0;
}

static int command_run(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : NULL;
	const struct img_verb *v;

	/* Keep freed memory in the process: returning it to the kernel costs a page fault for each page. */
	mallopt(M_MMAP_THRESHOLD, 64 << 20);
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
	log_set_owner("cairn-img");
	log_set_level(LOG_LEVEL_ERROR); /* errors are printed as one sentence instead */
	if (!verb)
		return img_usage(NULL, "no verb given");
	if (!strcmp(verb, "--version") || !strcmp(verb, "-V")) {
		printf("cairn-img %s\n", CAIRN_VERSION);
		return 0;
	}
	if (!strcmp(verb, "help") || !strcmp(verb, "--help") || !strcmp(verb, "-h"))
		return help_print(argc > 2 ? argv[2] : NULL);
	if (!strncmp(verb, "-T", 2) || !strncmp(verb, "--trace", 7))
		return img_usage(NULL, "%s is not supported: cairn-img has no trace events; give the verb first", verb);
	v = img_verb_find(verb);
	if (!v)
		return verb_missing(verb);
	if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h")))
		return help_print(verb);
	opterr = 0; /* errors are printed as one sentence */
	return v->run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	program_outlive_file_limit();
	return img_exit(command_run(argc, argv));
}
