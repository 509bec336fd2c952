/* options: the strings of -o. */
#include "img.h"

#include "base/util.h"

#include <stdio.h>
#include <string.h>

char *img_option_next(char **at)
{
	char *start = *at, *to = start, *from = start;

	if (!start)
		return NULL;
	for (; *from && (*from != ',' || from[1] == ','); from++) {
		from += *from == ','; /* ",," stands for one comma */
		*to++ = *from;
	}
	*at = *from ? from + 1 : NULL;
	*to = 0;
	return start;
}

int img_options_add(struct img_options *o, const char *verb, char *arg)
{
	if (o->n == ARRAY_SIZE(o->list))
		return img_usage(verb, "-o can be given at most %zu times", ARRAY_SIZE(o->list));
	o->list[o->n++] = arg;
	return 0;
}

static bool word_is_help(const char *s, size_t n)
{
	return (n == 4 && !memcmp(s, "help", n)) || (n == 1 && *s == '?');
}

bool img_options_ask_help(const struct img_options *o)
{
	for (unsigned i = 0; i < o->n; i++) {
		for (const char *s = o->list[i]; *s; s += s[strcspn(s, ",")] == ',') {
			size_t n = strcspn(s, ",");

			if (word_is_help(s, n))
				return true;
			s += n;
		}
	}
	return false;
}

enum option_of { OF_RAW = 1, OF_QCOW2 = 2, OF_AMEND = 4 };
struct option_help {
	const char *key, *type, *text;
	unsigned of; /* enum option_of */
};
static const struct option_help option_helps[] = {
	{ "backing_file", "str", "File name of a base image", OF_QCOW2 | OF_AMEND },
	{ "backing_fmt", "str", "Image format of the base image", OF_QCOW2 | OF_AMEND },
	{ "cluster_size", "size", "qcow2 cluster size", OF_QCOW2 },
	{ "compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])", OF_QCOW2 | OF_AMEND },
	{ "compression_type", "str", "Compression method used for image cluster compression", OF_QCOW2 },
	{ "data_file", "str", "File name of an external data file", OF_QCOW2 | OF_AMEND },
	{ "data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image", OF_QCOW2 | OF_AMEND },
	{ "extended_l2", "bool (on/off)", "Extended L2 tables", OF_QCOW2 },
	{ "lazy_refcounts", "bool (on/off)", "Postpone refcount updates", OF_QCOW2 | OF_AMEND },
	{ "preallocation", "str", "Preallocation mode (allowed values: off, metadata, falloc, full)", OF_QCOW2 },
	{ "preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)", OF_RAW },
	{ "refcount_bits", "num", "Width of a reference count entry in bits", OF_QCOW2 | OF_AMEND },
	{ "size", "size", "Virtual disk size", OF_RAW | OF_QCOW2 | OF_AMEND },
};

const char *img_options_key_at(const void *opaque, size_t i)
{
	(void)opaque;
	return i < ARRAY_SIZE(option_helps) ? option_helps[i].key : NULL;
}

void img_options_help(enum block_format format, bool amend)
{
	unsigned of = amend ? OF_AMEND : format == BLOCK_FORMAT_RAW ? OF_RAW : OF_QCOW2;

	if (amend)
		printf("Amend options for '%s':\n", block_format_name(format));
	else
		printf("Supported %s options:\n", block_format_name(format));
	for (size_t i = 0; i < ARRAY_SIZE(option_helps); i++) {
		const struct option_help *h = &option_helps[i];
		char left[64];

		if (!(h->of & of))
			continue;
		snprintf(left, sizeof(left), "%s=<%s>", h->key, h->type);
		printf("  %-22s - %s\n", left, h->text);
	}
}

int img_options_apply(struct img_create *c, const struct img_options *o, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < o->n && !r; i++)
		r = img_create_options(c, o->list[i], e);
	return r;
}
