#include "tools/cairn/state_file.h"
#include "api/definition/definition.h"
#include "api/definition/definition_fit.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int file_open(const char *path, bool write, struct state_file *f, struct err *e)
{
	struct stat st;

	f->fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
	if (f->fd < 0 || fstat(f->fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, ERR_INVALID, "%s is not a regular file", path);
	if (st.st_size < VMSTATE_HEADER_BYTES)
		return err_set(e, -EINVAL, ERR_INVALID, "%s is not a saved state of a VM", path);
	f->since = st.st_ctim;
	vmstate_file_init(&f->store, f->fd);
	return 0;
}

static int definition_read(const char *path, struct state_file *f, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	int r = vmstate_read_definition(&f->store.store, &f->header, &text, e);

	if (r < 0)
		return r;
	if (!text)
		return err_set(e, -EINVAL, ERR_INVALID, "the saved state has no definition; add one with: cairn save-image-define %s DEFINITION", shell_word(path).s);
	return js_parse(text, strlen(text), "the definition", &f->definition, e);
}

int state_file_open(const char *path, bool write, struct state_file *ret, struct err *e)
{
	int r;

	*ret = (struct state_file){ .fd = -1 };
	r = file_open(path, write, ret, e);
	if (r < 0)
		return r;
	r = vmstate_read_header(&ret->store.store, &ret->header, e);
	if (!r && definition_read(path, ret, e) < 0 && !write)
		r = -EINVAL;
	if (r < 0)
		err_prefix(e, "%s", path);
	return r;
}

void state_file_done(struct state_file *f)
{
	json_object_put(f->definition);
	if (f->fd >= 0)
		close(f->fd);
}

/* Without a definition in the file, check the values in the header. */
static int header_fits(const struct vmstate_header *h, const struct definition *now, struct err *e)
{
	if (memcmp(h->uuid, now->uuid, sizeof(h->uuid)))
		return err_set(e, -EINVAL, ERR_INVALID, "uuid: the saved state is of another VM");
	if (h->layout.ram_bytes != now->ram_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "memory: the saved state has %llu MiB", (unsigned long long)h->layout.ram_bytes >> 20);
	return 0;
}

int state_file_set(struct state_file *f, struct json_object *now, const char *folder, bool paused, struct err *e)
{
	struct definition *then CLEANUP(definition_free_p) = NULL;
	struct definition *def CLEANUP(definition_free_p) = NULL;
	CLEANUP_JS struct json_object *o = NULL;
	struct err ignored;
	int r = definition_parse(now, folder, &def, e);

	if (r < 0)
		return r;
	if (!uuid_is_set(def->uuid))
		memcpy(def->uuid, f->header.uuid, sizeof(def->uuid));
	r = header_fits(&f->header, def, e);
	if (!r && f->definition && definition_parse(f->definition, NULL, &then, &ignored) == 0) {
		if (!def->machine)
			def->machine = then->machine;
		r = definition_check_fits(then, def, e);
	}
	if (r < 0)
		return r;
	o = definition_to_json(def);
	return vmstate_change_definition(&f->store.store, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
		paused, e);
}
