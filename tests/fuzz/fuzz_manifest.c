/* fuzz_manifest: libFuzzer target for the manifest and the checksums of an archive to be imported. The names
 * of files in an accepted manifest have no folders, and the manifest can be read again after it was printed. */
#include "tests/fuzz/fuzz_api.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "tools/archive/archive.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(const struct manifest *m)
{
	for (unsigned i = 0; i < m->nfiles; i++)
		must(manifest_name_ok(m->files[i].name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	CLEANUP_FREE char *text = malloc(len + 1), *again = NULL;
	struct manifest m = { 0 }, second = { 0 };
	struct err e = { 0 };

	must(text);
	memcpy(text, data, len);
	text[len] = 0;
	if (manifest_parse(text, len, &m, &e) == 0) {
		check(&m);
		again = manifest_print(&m);
		must(again && manifest_parse(again, strlen(again), &second, &e) == 0 && second.nfiles == m.nfiles);
		(void)manifest_parse_sums(text, len, &m, &e);
	} else {
		must(e.msg[0]);
	}
	manifest_done(&second);
	manifest_done(&m);
	return 0;
}
