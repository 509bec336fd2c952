/* cairn-img: disk images. Option letters and output as in qemu-img. */
#include "img.h"

#include "base/log.h"
#include "base/util.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN_HELP                                                                                  \
	"  -f FMT         format of the image: raw or qcow2 (default: look at it)\n"               \
	"  -U             do not lock: for an image that a VM is using\n"                          \
	"  --allow DIR    backing files may also lie below DIR (default: only below\n"             \
	"                 the folder of the image that names them)\n"

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
		"                 backing_fmt, preallocation (off)\n"
		"SIZE is in bytes, or has a suffix: k, M, G, T, P, E. An existing FILE is overwritten\n"
		"unless a VM or another tool has it open.\n",
		img_create_main },
	{ "info", "say what an image is", "info [-f FMT] [-U] [--output human|json] [--backing-chain] FILE",
		OPEN_HELP
		"  --output FMT   human (default) or json\n"
		"  --backing-chain  also the backing files\n",
		img_info_main },
	{ "check", "find faults in an image's tables",
		"check [-q] [-f FMT] [-r leaks|all] [-U] [--output human|json] FILE", OPEN_HELP
		"  -r leaks       repair space that is lost\n"
		"  -r all         repair everything: refcounts are counted anew, what points nowhere\n"
		"                 reads as zeros afterwards, the dirty and corrupt marks go\n"
		"  --output FMT   human (default) or json\n"
		"  -q             say nothing, only the exit status\n"
		"Exit status, after a repair of what is left: 0 no faults, 1 the check failed, 2 corrupt, 3 only leaks\n"
		"(space that is lost, no danger), 63 a format without tables.\n",
		img_check_main },
	{ "convert", "copy an image into another format",
		"convert [-q] [-p] [-f FMT] [-O FMT] [-o OPTIONS] [-U] SOURCE TARGET", OPEN_HELP
		"  -O FMT         format of the target: raw (default) or qcow2\n"
		"  -o OPTIONS     as of `create`\n"
		"  -p             show progress on a terminal\n"
		"Zeros are left out. The target appears when it is complete: after a failure or\n"
		"Ctrl-C nothing has changed.\n",
		img_convert_main },
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

int img_bad_option(const char *verb, const char *opt)
{
	return img_usage(verb, "'%s' is no option of %s, or lacks its value", opt, verb);
}

static int help(const char *verb)
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

	log_set_owner("cairn-img");
	if (!verb)
		return img_usage(NULL, "a verb is needed");
	if (!strcmp(verb, "--version") || !strcmp(verb, "-V")) {
		printf("cairn-img %s\n", CAIRN_VERSION);
		return 0;
	}
	if (!strcmp(verb, "help") || !strcmp(verb, "--help") || !strcmp(verb, "-h"))
		return help(argc > 2 ? argv[2] : NULL);
	v = img_verb_find(verb);
	if (!v)
		return img_usage(NULL, "there is no verb '%s'", verb);
	if (argc > 2 && !strcmp(argv[2], "--help"))
		return help(verb);
	opterr = 0; /* one sentence, ours */
	return v->run(argc - 1, argv + 1);
}
