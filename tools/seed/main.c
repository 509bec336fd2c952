/* cairn-seed: write a seed image, an ISO 9660 file system with the label CIDATA, to stdout. Stdin has one JSON object,
 * whose keys are the names of the files and whose values are their content. `cairn seed` runs it; it is a program of
 * its own because libarchive needs a dynamic linker, which would make each start of `cairn` slower. With the argument
 * "read", it is the other way round: stdin has an image, and stdout gets the object.
 *
 * Exit status: 0; 1 with a sentence on stderr. */
#include "api/wire/json.h"
#include "base/err.h"
#include "base/file.h"
#include "base/cleanup.h"
#include "base/program.h"
#include "base/util.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
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
		err_set_errno(e, -archive_errno(a), "%s", archive_error_string(a) ?: "libarchive");
	archive_write_free(a);
	return r == ARCHIVE_OK ? 0 : -1;
}

/* Put the current file of the image, which the archive's limit on memory and INPUT_MAX bound. */
static int file_take(struct archive *a, struct archive_entry *entry, struct json_object *files)
{
	const char *name = archive_entry_pathname(entry);
	la_int64_t size = archive_entry_size(entry);
	CLEANUP_FREE char *text = NULL;

	if (archive_entry_filetype(entry) != AE_IFREG || !name)
		return ARCHIVE_OK;
	if (size < 0 || size > INPUT_MAX)
		return ARCHIVE_FATAL;
	text = must_alloc(malloc((size_t)size + 1));
	if (archive_read_data(a, text, (size_t)size) != (la_ssize_t)size)
		return ARCHIVE_FATAL;
	js_put(files, name, json_object_new_string_len(text, (int)size));
	return ARCHIVE_OK;
}

static int image_read(struct json_object *files, const char *image, size_t len, struct err *e)
{
	struct archive *a = archive_read_new();
	struct archive_entry *entry;
	int r = archive_read_support_format_iso9660(a);

	if (r == ARCHIVE_OK)
		r = archive_read_open_memory(a, image, len);
	while (r == ARCHIVE_OK && (r = archive_read_next_header(a, &entry)) == ARCHIVE_OK)
		r = file_take(a, entry, files);
	if (r != ARCHIVE_EOF)
		err_set(e, -EIO, ERR_IO, "%s", archive_error_string(a) ?: "a file is too large or incomplete");
	archive_read_free(a);
	return r == ARCHIVE_EOF ? 0 : -1;
}

int main(int argc, char **argv)
{
	CLEANUP_JS struct json_object *files = NULL;
	CLEANUP_FREE char *text = NULL;
	bool reads = argc == 2 && !strcmp(argv[1], "read");
	size_t len;
	struct err e;
	int r;

	program_outlive_file_limit();
	r = file_read_fd(STDIN_FILENO, "the content", INPUT_MAX, &text, &len, &e);
	if (!r && reads)
		files = json_object_new_object();
	else if (!r)
		r = js_parse(text, len, "the content", &files, &e);
	if (!r)
		r = reads ? image_read(files, text, len, &e) : image_write(files, &e);
	if (!r && reads)
		puts(json_object_to_json_string_ext(files, JSON_C_TO_STRING_PLAIN));
	if (r < 0)
		fprintf(stderr, "%s\n", e.msg);
	return program_end("cairn-seed", r < 0);
}
