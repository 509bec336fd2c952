/* uefi_files: which of a host's firmware descriptors serves. */
#include "api/definition/definition.h"
#include "api/definition/uefi_files.h"
#include "base/err.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char tmp[256], first[300], second[300];
	const char *folders[UEFI_FOLDERS];
	struct uefi_files files;
	struct err e;
};

static void descriptor_put(const char *folder, const char *name, const char *device, const char *machine, const char *features,
	const char *code)
{
	char path[400];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "{\"interface-types\": [\"uefi\"], \"mapping\": {\"device\": \"%s\", \"executable\": {\"filename\": \"%s\", \"format\": "
		"\"raw\"}, \"nvram-template\": {\"filename\": \"%s.vars\", \"format\": \"raw\"}}, \"targets\": [{\"architecture\": \"x86_64\", "
		"\"machines\": [\"%s\"]}], \"features\": [%s]}", device, code, code, machine, features);
	fclose(f);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->tmp, sizeof(f->tmp), "%s/uefi-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(f->tmp));
	snprintf(f->first, sizeof(f->first), "%s/first", f->tmp);
	snprintf(f->second, sizeof(f->second), "%s/second", f->tmp);
	assert_int_equal(mkdir(f->first, 0700) | mkdir(f->second, 0700), 0);
	f->folders[0] = f->first;
	f->folders[1] = f->second;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[320];
	int r;

	snprintf(command, sizeof(command), "rm -rf '%s'", f->tmp);
	r = system(command);
	free(f);
	return r;
}

static int find(struct fixture *f)
{
	memset(&f->files, 0, sizeof(f->files));
	return uefi_files_find(f->folders, &f->files, &f->e);
}

static void test_without_descriptors_the_files_are_those_of_debian(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rmdir(f->first), 0);
	assert_int_equal(find(f), 0);
	assert_string_equal(f->files.code, DEFINITION_UEFI_PATH);
	assert_string_equal(f->files.vars, DEFINITION_NVRAM_PATH);
}

static void test_first_name_that_fits_wins(void **state)
{
	struct fixture *f = *state;

	descriptor_put(f->second, "10-other-machine.json", "flash", "pc-i440fx-*", "", "/i440fx");
	descriptor_put(f->second, "20-memory.json", "memory", "pc-q35-*", "", "/memory");
	descriptor_put(f->second, "30-secure.json", "flash", "pc-q35-*", "\"secure-boot\", \"requires-smm\"", "/secure");
	descriptor_put(f->second, "35-text.txt", "flash", "pc-q35-*", "", "/text");
	descriptor_put(f->second, "40-plain.json", "flash", "pc-q35-*", "\"acpi-s3\"", "/plain");
	descriptor_put(f->first, "50-admin.json", "flash", "pc-q35-*", "", "/admin");
	assert_int_equal(find(f), 0);
	assert_string_equal(f->files.code, "/plain");
	assert_string_equal(f->files.vars, "/plain.vars");
	/* A file of the first folder hides its namesake, also if it is damaged. */
	descriptor_put(f->first, "40-plain.json", "flash", "pc-q35-*", "}", "/damaged");
	assert_int_equal(find(f), 0);
	assert_string_equal(f->files.code, "/admin");
}

static void test_descriptors_with_smm_only_are_refused(void **state)
{
	struct fixture *f = *state;

	descriptor_put(f->second, "30-secure.json", "flash", "pc-q35-*", "\"requires-smm\"", "/secure");
	assert_int_equal(find(f), -ENOTSUP);
	assert_non_null(strstr(f->e.msg, "30-secure.json) needs system management mode"));
	assert_int_equal(uefi_files_check(f->folders, "/secure", &f->e), -ENOTSUP);
	assert_non_null(strstr(f->e.msg, "boot.loader: /secure needs system management mode"));
	assert_int_equal(uefi_files_check(f->folders, "/other", &f->e), 0);
	/* Names that tell of Secure Boot, without a descriptor; a descriptor knows better. */
	assert_int_equal(uefi_files_check(f->folders, "/usr/share/OVMF/OVMF_CODE.secboot.fd", &f->e), -ENOTSUP);
	assert_int_equal(uefi_files_check(f->folders, "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", &f->e), -ENOTSUP);
	assert_int_equal(uefi_files_check(f->folders, "/usr/share/OVMF/OVMF_CODE_4M.snakeoil.fd", &f->e), -ENOTSUP);
	assert_int_equal(uefi_files_check(f->folders, "/secboot/OVMF_CODE.fd", &f->e), 0);
	descriptor_put(f->second, "40-plain.json", "flash", "pc-q35-*", "", "/plain.secboot.fd");
	assert_int_equal(uefi_files_check(f->folders, "/plain.secboot.fd", &f->e), 0);
}

/* The first folder alone has more descriptors than are read. */
static void test_first_of_many_wins(void **state)
{
	struct fixture *f = *state;
	char name[32];

	for (int i = 10; i < 90; i++) {
		snprintf(name, sizeof(name), "%d.json", i);
		descriptor_put(f->first, name, "memory", "pc-q35-*", "", "/memory");
	}
	descriptor_put(f->second, "05.json", "flash", "pc-q35-*", "", "/early");
	assert_int_equal(find(f), 0);
	assert_string_equal(f->files.code, "/early");
}

/* Opening a FIFO for reading waits for a writer. */
static void test_other_files_than_regular_ones_are_left_out(void **state)
{
	struct fixture *f = *state;
	char path[400];

	snprintf(path, sizeof(path), "%s/10-fifo.json", f->first);
	assert_int_equal(mkfifo(path, 0600), 0);
	descriptor_put(f->first, "20-plain.json", "flash", "pc-q35-*", "", "/plain");
	alarm(60);
	assert_int_equal(find(f), 0);
	alarm(0);
	assert_string_equal(f->files.code, "/plain");
}

static int choose(struct fixture *f, struct definition *d, const struct definition *old)
{
	free(d->loader);
	free(d->nvram_template);
	d->loader = d->nvram_template = NULL;
	return uefi_choose(f->folders, d, old, &f->e);
}

static void test_vm_keeps_its_uefi(void **state)
{
	struct fixture *f = *state;
	struct definition d = { .firmware = VM_FIRMWARE_UEFI }, old = { .firmware = VM_FIRMWARE_UEFI };

	descriptor_put(f->second, "10.json", "flash", "pc-q35-*", "", "/new");
	assert_int_equal(choose(f, &d, NULL), 0);
	assert_string_equal(d.loader, "/new");
	assert_string_equal(d.nvram_template, "/new.vars");
	assert_int_equal(choose(f, &d, &old), 0); /* an old VM without a loader keeps Debian's firmware */
	assert_null(d.loader);
	old.loader = (char *)"/old";
	old.nvram_template = (char *)"/old.vars";
	assert_int_equal(choose(f, &d, &old), 0);
	assert_string_equal(d.loader, "/old");
	assert_string_equal(d.nvram_template, "/old.vars");
	old.firmware = VM_FIRMWARE_BIOS;
	assert_int_equal(choose(f, &d, &old), 0);
	assert_string_equal(d.loader, "/new");
	d.firmware = VM_FIRMWARE_BIOS;
	assert_int_equal(choose(f, &d, NULL), 0);
	assert_null(d.loader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_without_descriptors_the_files_are_those_of_debian, setup, teardown),
		cmocka_unit_test_setup_teardown(test_first_name_that_fits_wins, setup, teardown),
		cmocka_unit_test_setup_teardown(test_descriptors_with_smm_only_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_first_of_many_wins, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_files_than_regular_ones_are_left_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vm_keeps_its_uefi, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
