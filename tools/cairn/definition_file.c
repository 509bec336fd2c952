#include "tools/cairn/definition_file.h"
#include "tools/cairn/xml.h"
#include "api/definition.h"
#include "api/js.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int folder_of(const char *path, char folder[PATH_MAX], struct err *e)
{
	char *slash;
	struct stat st;

	/* A pipe, such as /dev/stdin, lies nowhere. */
	if (!strcmp(path, "-") || (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
		return getcwd(folder, PATH_MAX) ? 0 : err_set_errno(e, -errno, "the present folder");
	if (!realpath(path, folder))
		return err_set_errno(e, -errno, "%s", path);
	slash = strrchr(folder, '/');
	slash[slash == folder] = 0;
	return 0;
}

static int text_read(const char *path, char folder[PATH_MAX], char **ret_text, size_t *ret_len,
	struct err *e)
{
	int r = folder_of(path, folder, e);

	if (r < 0)
		return r;
	if (strcmp(path, "-"))
		return file_read(path, XML_FILE_MAX, ret_text, ret_len, e);
	return file_read_fd(0, "standard input", XML_FILE_MAX, ret_text, ret_len, e);
}

int definition_file_read(const char *path, struct definition_file *f, struct err *e)
{
	const char *name = strcmp(path, "-") ? path : "standard input";
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int r = text_read(path, f->folder, &text, &len, e);

	if (!r && xml_is(text, len))
		return xml_to_definition(text, len, &f->definition, &f->warnings, &f->origins, e);
	if (!r && len > DEFINITION_FILE_MAX)
		return err_set(e, -EFBIG, ERR_INVALID, "%s is larger than %d bytes", name,
			DEFINITION_FILE_MAX);
	if (!r)
		r = js_parse(text, len, name, &f->definition, e);
	if (!r)
		f->warnings = json_object_new_array();
	return r;
}

void definition_file_done(struct definition_file *f)
{
	json_object_put(f->definition);
	json_object_put(f->warnings);
	json_object_put(f->origins);
}

int definition_file_blame(const struct definition_file *f, int r, struct err *e)
{
	if (r < 0)
		xml_blame(f->origins, e);
	return r;
}

void warnings_print(struct json_object *list)
{
	size_t n = list ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "warning: %s\n",
			json_object_get_string(json_object_array_get_idx(list, i)));
}
