#include "tools/agent/copy.h"
#include "base/tree_stream.h"

#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int complain(const struct tree_fault *f, int error)
{
	const char *why = strerror(f->error ? f->error : error), *name = f->error ? f->name : "stream";
	char line[512] = "";

	strncat(line, name, 256);
	strncat(line, ": ", 3);
	strncat(line, why, 200);
	return write(2, line, strlen(line)) < 0 ? 2 : 1;
}

int copy_receive(const char *path, const char *name)
{
	static struct tree_reader t;
	static uint8_t buf[65536];
	char inside[PATH_MAX] = "";
	bool inner = false;
	struct stat st;
	ssize_t n;
	int r = 0, end;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode) && strlen(path) + strlen(name) + 2 < sizeof(inside)) {
		strcat(strcat(strcat(inside, path), "/"), name);
		path = inside;
		inner = true;
	}
	tree_reader_init(&t, path, -1);
	t.nofollow = inner;
	while (!r && (n = read(0, buf, sizeof(buf))) > 0)
		r = tree_reader_take(&t, buf, (size_t)n);
	end = tree_reader_end(&t);
	r = r ? r : end;
	return r ? complain(&t.fault, -r) : 0;
}

int copy_send(const char *path)
{
	static struct tree_writer w = { .fd = 1 };
	int r = tree_write(&w, path);

	return r ? complain(&w.fault, -r) : 0;
}
