/* cairn-seed: write a seed image, an ISO 9660 file system with the label CIDATA, to stdout. Stdin has one JSON object,
 * whose keys are the names of the files and whose values are their content. `cairn seed` runs it; it is a program of
 * its own because libarchive needs a dynamic linker, which would make each start of `cairn` slower.
 *
 * Exit status: 0; 1 with a sentence on stderr. */
#include "api/wire/json.h"
#include "base/err.h"
#include "base/file.h"
#include "base/cleanup.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INPUT_MAX (16 * 1024 * 1024)
#define LABEL "CIDATA" /* cloud-init looks for this label, in either case */

static int file_add(struct archive *a, const char *name, const char *text, size_t len)
{
	struct archive_entry *entry = archive_entry_new();
	int r;

	archive_entry_set_pathname(entry, name);
	archive_entry_set_filetype(entry, AE_IFREG);
	archive_entry_set_perm(entry, 0644);
	archive_entry_set_size(entry, (la_int64_t)len);
	archive_entry_set_mtime(entry, time(NULL), 0);
	r = archive_write_header(a, entry);
	if (r == ARCHIVE_OK && archive_write_data(a, text, len) != (la_ssize_t)len)
		r = ARCHIVE_FATAL;
	archive_entry_free(entry);
	return r;
}

static int image_write(struct json_object *files, struct err *e)
{
	struct archive *a = archive_write_new();
	int r = archive_write_set_format_iso9660(a);

	if (r == ARCHIVE_OK)
		r = archive_write_set_options(a, "volume-id=" LABEL);
	if (r == ARCHIVE_OK)
		r = archive_write_open_fd(a, STDOUT_FILENO);
	json_object_object_foreach(files, name, text)
		if (r == ARCHIVE_OK)
			r = file_add(a, name, json_object_get_string(text), (size_t)json_object_get_string_len(text));
	if (r == ARCHIVE_OK)
		r = archive_write_close(a);
	if (r != ARCHIVE_OK)
		err_set(e, -archive_errno(a), ERR_IO, "%s", archive_error_string(a));
	archive_write_free(a);
	return r == ARCHIVE_OK ? 0 : -1;
}

int main(void)
{
	CLEANUP_JS struct json_object *files = NULL;
	CLEANUP_FREE char *text = NULL;
	size_t len;
	struct err e;
	int r = file_read_fd(STDIN_FILENO, "the content", INPUT_MAX, &text, &len, &e);

	if (!r)
		r = js_parse(text, len, "the content", &files, &e);
	if (!r)
		r = image_write(files, &e);
	if (r < 0)
		fprintf(stderr, "%s\n", e.msg);
	return r < 0;
}
