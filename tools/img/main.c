/* cairn-img: disk images. Option letters and output as in qemu-img. */
#include "img.h"

#include "base/log.h"
#include "base/util.h"

#include <stdarg.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN_HELP                                                                                  \
	"  -f FMT         format of the image: raw or qcow2 (default: look at it)\n"               \
	"  -U             do not lock: for an image that a VM is using\n"                          \
	"  --allow DIR    backing files may also lie below DIR (default: only below\n"             \
	"                 the folder of the image that names them)\n"

#define PROGRESS_HELP                                                                              \
	"  -p             show progress, on a terminal\n"                                          \
	"  --format json  progress and result as lines of JSON\n"

static const struct img_verb verbs[] = {
	{ "create", "make an empty image", "create [-q] [-f FMT] [-o OPTIONS] [-b FILE -F FMT] FILE [SIZE]",
		"  -f FMT         raw (default) or qcow2\n"
		"  -b FILE        the new image only keeps what differs from FILE\n"
		"  -F FMT         format of that file; has to be given\n"
		"  -u             do not open the backing file (SIZE is needed then)\n"
		"  -q             say nothing\n"
		"  -o OPTIONS     key=value, separated by commas:\n"
		"                 size, compat (1.1 or 0.10), cluster_size (512 to 2M, default 64k),\n"
		"                 refcount_bits (1 to 64, default 16), lazy_refcounts, extended_l2\n"
		"                 (on or off), compression_type (zlib or zstd), backing_file,\n"
		"                 backing_fmt, preallocation (off, metadata, falloc, full)\n"
		"SIZE is in bytes, or has a suffix: k, M, G, T, P, E. An existing FILE is overwritten\n"
		"unless a VM or another tool has it open.\n",
		img_create_main },
	{ "info", "say what an image is", "info [-f FMT] [-U] [--output human|json] [--backing-chain] FILE",
		OPEN_HELP
		"  --output FMT   human (default) or json\n"
		"  --backing-chain  also the backing files\n",
		img_info_main },
	{ "check", "find faults in an image's tables",
		"check [-p] [-q] [-f FMT] [-r leaks|all] [-U] [--output human|json] FILE", OPEN_HELP
		"  -r leaks       repair space that is lost\n"
		"  -r all         repair everything: refcounts are counted anew, what points nowhere\n"
		"                 reads as zeros afterwards, the dirty and corrupt marks go\n"
		"  --output FMT   human (default) or json\n"
		"  -p             show progress, on a terminal\n"
		"  -q             say nothing, only the exit status\n"
		"Exit status, after a repair of what is left: 0 no faults, 1 the check failed, 2 corrupt, 3 only leaks\n"
		"(space that is lost, no danger), 63 a format without tables.\n",
		img_check_main },
	{ "convert", "copy a disk into another image",
		"convert [-c] [-n] [-p] [-q] [-f FMT] [-O FMT] [-o OPTIONS] [-l SNAPSHOT] [-r RATE]\n"
		"         [-U] SOURCE TARGET|-", OPEN_HELP
		"  -O FMT         format of the target: raw (default) or qcow2\n"
		"  -o OPTIONS     as of `create`\n"
		"  -c             compressed, on all processors (see -o compression_type)\n"
		"  -l SNAPSHOT    what an internal snapshot holds, by its id or name\n"
		"  -r RATE        at most so many bytes a second\n"
		"  -n             into an image that exists\n"
		"  --target-is-zero  with -n: it reads as zeros already\n" PROGRESS_HELP
		"Zeros are left out. A new target appears when it is complete: after a failure or\n"
		"Ctrl-C nothing has changed. TARGET '-' is standard output, for raw.\n",
		img_convert_main },
	{ "compare", "say whether two disks are the same",
		"compare [-p] [-q] [-s] [-f FMT] [-F FMT] [-U] FILE FILE", OPEN_HELP
		"  -F FMT         format of the second image\n"
		"  -s             strict: sizes and allocation have to be the same, too\n" PROGRESS_HELP
		"Exit status: 0 the same (a longer one's rest is zeros), 1 they differ, 2 one cannot be\n"
		"opened, 3 or 4 one cannot be read.\n",
		img_compare_main },
	{ "map", "say what stands where",
		"map [-f FMT] [-U] [-s OFFSET] [-l LENGTH] [--output human|json] FILE", OPEN_HELP
		"  -s OFFSET      begin there (--start-offset)\n"
		"  -l LENGTH      look at so much (--max-length)\n"
		"  --output FMT   human (default): where data stands in which file; or json: all of it\n",
		img_map_main },
	{ "resize", "make a disk longer or shorter",
		"resize [-p] [-q] [-f FMT] [--shrink] [--preallocation=MODE] FILE [+|-]SIZE",
		"  -f FMT         format of the image\n"
		"  --shrink       yes, cut off what lies behind the new end\n"
		"  --preallocation MODE  of what is added: off, metadata, falloc, full\n" PROGRESS_HELP
		"+SIZE and -SIZE count from the present size. Internal snapshots keep theirs.\n",
		img_resize_main },
	{ "measure", "say how large an image would become",
		"measure [--output human|json] [-O FMT] [-o OPTIONS] [-l SNAPSHOT] [-f FMT] [-U]\n"
		"         --size SIZE | FILE", OPEN_HELP
		"  -O FMT         format of the new image: raw (default) or qcow2\n"
		"  -o OPTIONS     as of `create`\n"
		"  --size SIZE    for an empty disk of this size\n",
		img_measure_main },
	{ "rebase", "give an image another backing file",
		"rebase [-p] [-q] [-f FMT] [-u] -b FILE [-F FMT] IMAGE", OPEN_HELP
		"  -b FILE        the new backing file; \"\" for none\n"
		"  -F FMT         its format; has to be given\n"
		"  -u             only write the name: for a file that has moved\n" PROGRESS_HELP
		"The disk keeps its content: what differs between the old and the new backing file is\n"
		"copied into the image first.\n",
		img_rebase_main },
	{ "commit", "move an image's changes into its backing file", "commit [-d] [-p] [-q] [-f FMT] FILE",
		OPEN_HELP
		"  -d             do not empty the image afterwards\n" PROGRESS_HELP,
		img_commit_main },
	{ "amend", "change an image's options in place", "amend [-f FMT] -o OPTIONS FILE",
		"  -f FMT         format of the image\n"
		"  -o OPTIONS     compat (1.1 or 0.10), lazy_refcounts, refcount_bits, size, data_file,\n"
		"                 data_file_raw=off\n",
		img_amend_main },
	{ "trim", "make an image's file small again, in place", "trim [--zeros] [-p] [-q] [-f FMT] FILE",
		OPEN_HELP
		"  --zeros        also give back what holds nothing but zeros\n" PROGRESS_HELP
		"Space that no table names becomes holes, and the file's tail is cut.\n",
		img_trim_main },
	{ "snapshot", "take, apply, delete or list snapshots of the disk",
		"snapshot [-c NAME | -a SNAPSHOT | -d SNAPSHOT | -l] [--own-size] [-p] [-q] [-f FMT] [-U] FILE", OPEN_HELP
		"  -l             list them (default)\n"
		"  --own-size     of -l: what each alone holds, and so what deleting it frees\n"
		"  -c NAME        take one\n"
		"  -a SNAPSHOT    the disk becomes what it was then; what it is now is lost\n"
		"  -d SNAPSHOT    delete it and give its space back\n"
		"  --output FMT   of -l: human (default) or json\n" PROGRESS_HELP
		"SNAPSHOT is a name, else an id. The image must not be in use.\n",
		img_snapshot_main },
	{ "vmstate-info", "say what a saved VM state holds",
		"vmstate-info [-U] [--output human|json] FILE [SNAPSHOT]",
		"  -U             do not lock: for an image that a VM is using\n"
		"  --output FMT   human (default) or json\n"
		"FILE is an image (default: its last snapshot with a VM state) or a saved state.\n",
		img_vmstate_main },
	{ "bench", "measure an image's speed",
		"bench [-c COUNT] [-d DEPTH] [-f FMT] [-s SIZE] [-S STEP] [-o OFFSET] [-t CACHE] [-w]\n"
		"         [--random] [--pattern BYTE] [--flush-interval N] [--no-drain] [-q] [-U] FILE",
		OPEN_HELP
		"  -c COUNT       requests (75000)\n"
		"  -d DEPTH       in flight at a time (64)\n"
		"  -s SIZE        bytes of each (4096)\n"
		"  -S STEP        from one to the next (SIZE)\n"
		"  -o OFFSET      of the first\n"
		"  --random       anywhere instead\n"
		"  -w             write: what is there is overwritten\n"
		"  --pattern BYTE what is written\n"
		"  --flush-interval N  a flush after every N writes, --no-drain: without waiting for them\n"
		"  -t CACHE       writeback (default) or none (O_DIRECT)\n"
		"  --cache-bytes N  bound on cached tables\n"
		"  --format json  the result as a line of JSON\n",
		img_bench_main },
};

const struct img_verb *img_verb_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

void img_verb_help(const struct img_verb *v)
{
	printf("Usage: cairn-img %s\n\n%c%s.\n\n%s", v->usage, v->summary[0] - 32, v->summary + 1,
		v->help);
}

int img_fail(const struct err *e)
{
	fprintf(stderr, "cairn-img: %s\n", e->msg);
	return 1;
}

int img_usage(const char *verb, const char *fmt, ...)
{
	va_list ap;

	fputs("cairn-img: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry `cairn-img help%s%s`.\n", verb ? " " : "", verb ? verb : "");
	return 1;
}

int img_allow_add(struct img_open *o, const char *dir)
{
	if (o->nallow == IMG_ALLOW_MAX)
		return img_usage(NULL, "--allow can be given %d times", IMG_ALLOW_MAX);
	o->allow[o->nallow++] = dir;
	return 0;
}

int img_bad_option(const char *verb, const char *opt)
{
	return img_usage(verb, "'%s' is no option of %s, or lacks its value", opt, verb);
}

static int help_print(const char *verb)
{
	const struct img_verb *v = verb ? img_verb_find(verb) : NULL;

	if (v) {
		img_verb_help(v);
		return 0;
	}
	if (verb)
		return img_usage(NULL, "there is no verb '%s'", verb);
	printf("Usage: cairn-img VERB [options]\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		printf("  %-10s %s\n", verbs[i].name, verbs[i].summary);
	printf("\n`cairn-img help VERB` says more. Manual: cairn-img(1).\n");
	return 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : NULL;
	const struct img_verb *v;

	/* Memory stays ours until the end: giving it back and forth costs a fault for each page. */
	mallopt(M_MMAP_THRESHOLD, 64 << 20);
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
	log_set_owner("cairn-img");
	log_set_level(LOG_LEVEL_ERROR); /* what fails is said in one sentence, ours */
	if (!verb)
		return img_usage(NULL, "a verb is needed");
	if (!strcmp(verb, "--version") || !strcmp(verb, "-V")) {
		printf("cairn-img %s\n", CAIRN_VERSION);
		return 0;
	}
	if (!strcmp(verb, "help") || !strcmp(verb, "--help") || !strcmp(verb, "-h"))
		return help_print(argc > 2 ? argv[2] : NULL);
	v = img_verb_find(verb);
	if (!v)
		return img_usage(NULL, "there is no verb '%s'", verb);
	if (argc > 2 && !strcmp(argv[2], "--help"))
		return help_print(verb);
	opterr = 0; /* one sentence, ours */
	return v->run(argc - 1, argv + 1);
}
