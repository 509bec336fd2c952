#include "tools/cairn/backing.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MAX (1024 * 1024)

static int img_spawn(const char *image, int out, pid_t *ret_pid)
{
	char program[PATH_MAX];
	char *const argv[] = { (char *)"cairn-img", (char *)"info", (char *)"--backing-chain", (char *)"--output",
		(char *)"json", (char *)"--", (char *)image, NULL };
	posix_spawn_file_actions_t files;
	int r = paths_helper("cairn-img", program, sizeof(program), NULL);

	if (r < 0)
		return r;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, out, 1);
	posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
	r = -posix_spawn(ret_pid, program, &files, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	return r;
}

/* Run cairn-img to read the image's chain of backing files. Returns an array; NULL if cairn-img cannot read the
 * image. */
static struct json_object *chain_read(const char *image)
{
	CLEANUP_CLOSE int from = -1, to = -1;
	CLEANUP_JS struct json_object *chain = NULL;
	CLEANUP_FREE char *text = NULL;
	int pair[2], status, r;
	size_t len;
	pid_t pid;

	if (pipe2(pair, O_CLOEXEC) < 0)
		return NULL;
	from = pair[0];
	to = pair[1];
	if (img_spawn(image, to, &pid) < 0)
		return NULL;
	close(steal_fd(&to));
	r = file_read_fd(from, "cairn-img", ANSWER_MAX, &text, &len, NULL);
	close(steal_fd(&from)); /* cairn-img ends if it still writes */
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return NULL;
	if (r < 0 || status || js_parse(text, len, "cairn-img", &chain, NULL) < 0 ||
		!json_object_is_type(chain, json_type_array))
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
