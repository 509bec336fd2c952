#include "tools/cairn/backing.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "tools/cairn/img_run.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool image_is_same(const char *a, const char *b)
{
	struct stat x, y;

	return !strcmp(a, b) || (!stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

bool image_looks_like_qcow2(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	char magic[4];

	return fd >= 0 && pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
		!memcmp(magic, "QFI\xfb", sizeof(magic));
}

/* Have cairn-img read the image's chain of backing files. Returns an array; NULL if cairn-img cannot read the image. */
static struct json_object *chain_read(const char *image)
{
	const char *const args[] = { "info", "--backing-chain", "--output", "json", "--", image, NULL };
	CLEANUP_JS struct json_object *chain = NULL;
	struct err e;

	if (img_run(args, &chain, &e) < 0 || !json_object_is_type(chain, json_type_array))
		return NULL;
	return STEAL_PTR(chain);
}

static int layer_add(struct json_object *layers, struct json_object *above, struct json_object *info,
	struct err *e)
{
	const char *path = js_get_str(info, "filename");
	struct json_object *o;

	/* Do not guess the format: a guest can write any header at the start of a raw disk. */
	if (!js_get_str(above, "backing-filename-format"))
		return err_set(e, -EINVAL, ERR_INVALID,
			"%s does not give the format of its backing file; set it with cairn-img rebase -u -b FILE -F "
			"FORMAT",
			js_get_str(above, "filename"));
	o = json_object_new_object();
	js_put_str(o, "path", path);
	js_put_str(o, "format", js_get_str(above, "backing-filename-format"));
	json_object_array_add(layers, o);
	return 0;
}

int backing_put(struct json_object *disk, struct err *e)
{
	CLEANUP_JS struct json_object *chain = chain_read(js_get_str(disk, "path"));
	CLEANUP_JS struct json_object *layers = json_object_new_array();
	size_t n = chain ? json_object_array_length(chain) : 0;

	for (size_t i = 1; i < n; i++) {
		int r = layer_add(layers, json_object_array_get_idx(chain, i - 1),
			json_object_array_get_idx(chain, i), e);

		if (r < 0)
			return r;
	}
	if (n > 1)
		js_put(disk, "backing", json_object_get(layers));
	return 0;
}
