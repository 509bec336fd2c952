/* dd: copy a range of a disk to a new image, with the operands of dd(1). */
#include "convert.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

struct dd {
	struct img_convert v;
	uint64_t block_bytes, count, skip; /* count: UINT64_MAX: up to the end */
	struct img_open src;
	char *from, *to;
};

static int operand_take(struct dd *d, char *word)
{
	char *value = strchr(word, '=');
	size_t n = value ? (size_t)(value - word) : 0;
	uint64_t *number = NULL;
	struct err e;

	if (n == 2 && !memcmp(word, "if", n))
		d->from = value + 1;
	else if (n == 2 && !memcmp(word, "of", n))
		d->to = value + 1;
	else if (n == 2 && !memcmp(word, "bs", n))
		number = &d->block_bytes;
	else if (n == 5 && !memcmp(word, "count", n))
		number = &d->count;
	else if (n == 4 && !memcmp(word, "skip", n))
		number = &d->skip;
	else
		return img_usage("dd", "unknown operand '%s'", word);
	if (number && img_parse_size(value + 1, number, &e) < 0)
		return img_fail(&e);
	if (number == &d->block_bytes && (!*number || *number > INT_MAX))
		return img_usage("dd", "bs is a size from 1 to %d", INT_MAX);
	return 0;
}

static uint64_t blocks_to_bytes(const struct dd *d, uint64_t blocks)
{
	uint64_t bytes;

	return __builtin_mul_overflow(blocks, d->block_bytes, &bytes) ? UINT64_MAX : bytes;
}

/* Like qemu-img, the range ends `count` blocks behind the start of the source, not behind `skip`; and a range that
 * starts behind the end of the source makes an empty image. */
static int dd_run(struct dd *d, struct err *e)
{
	struct img_convert *v = &d->v;

	v->sources = &d->src;
	v->nsources = 1;
	v->path = v->target.path;
	v->skip_bytes = blocks_to_bytes(d, d->skip);
	v->end_bytes = blocks_to_bytes(d, d->count);
	return img_convert_run(v, e);
}

int img_dd_main(int argc, char **argv)
{
	struct dd d = { .v.ic = IMG_CREATE_DEFAULT, .block_bytes = 512, .count = UINT64_MAX };
	struct err e;
	int c, st = 0;

	img_common_init(&d.v.common, "dd");
	while (!st && (c = getopt_long(argc, argv, "f:O:U", img_common_longs, NULL)) != -1) {
		if (c == 'O')
			st = img_create_format(&d.v.ic, "dd", optarg);
		else if (c == 'f')
			d.src.format = optarg;
		else
			st = img_common_option(&d.v.common, c, c == '?' ? argv[optind - 1] : optarg);
	}
	for (int i = optind; i < argc && !st; i++)
		st = operand_take(&d, argv[i]);
	if (!st && (!d.from || !d.to))
		st = img_usage("dd", "if=SOURCE and of=TARGET are required");
	if (st)
		return st;
	img_common_open(&d.v.common, &d.src);
	d.v.target.writable = true;
	if (img_common_name(&d.v.common, &d.src, d.from))
		return 1;
	if (img_name_take(&d.v.target, d.to, false, &e) < 0)
		return img_fail(&e);
	if (!d.v.target.format)
		d.v.target.format = block_format_name(d.v.ic.format);
	if (img_create_format(&d.v.ic, "dd", d.v.target.format))
		return 1;
	img_signals_catch();
	return dd_run(&d, &e) < 0 ? img_fail(&e) : 0;
}
