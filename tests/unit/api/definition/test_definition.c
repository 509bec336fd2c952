/* Definitions: which are refused, with which message, and that an accepted one is printed
 * unchanged. */
#include "api/definition/vm_config.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "block/block.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* Keys of a valid definition; a test replaces or adds one. */
static const char base[] = "\"name\":\"vm1\",\"memory\":\"128M\",\"boot\":{\"kernel\":\"/k\"}";
#define DISK "\"path\":\"/d\",\"format\":\"raw\""

static int parse_text(const char *text, struct definition **d, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r = js_parse(text, strlen(text), "vm.json", &o, e);

	return r < 0 ? r : definition_parse(o, "/folder", d, e);
}

static void refuse(const char *text, const char *words)
{
	struct definition *d = NULL;
	struct err e = { 0 };

	if (parse_text(text, &d, &e) != -22 || !strstr(e.msg, words))
		fail_msg("%s\n  gave: %s\n  not: %s", text, e.msg, words);
	assert_int_equal(e.cls, ERR_INVALID);
	assert_null(d);
}

/* The last of two equal keys counts, so `key` overrides the base's. */
static void refuse_key(const char *key, const char *words)
{
	char text[8192];

	snprintf(text, sizeof(text), "{%s,%s}", base, key);
	refuse(text, words);
}

static void refuse_disk(const char *key, const char *words)
{
	char text[1024];

	snprintf(text, sizeof(text), "\"disks\":[{%s,%s}]", DISK, key);
	refuse_key(text, words);
}

static struct definition *accept(const char *key)
{
	struct definition *d = NULL;
	char text[8192];
	struct err e;

	snprintf(text, sizeof(text), "{%s%s%s}", base, *key ? "," : "", key);
	if (parse_text(text, &d, &e) != 0)
		fail_msg("%s\n  gave: %s", text, e.msg);
	return d;
}

static void test_malformed_json_is_refused(void **state)
{
	(void)state;
	refuse("", "not JSON");
	refuse("name = vm1", "not JSON");
	refuse("{\"name\":\n \"a\",,}", "line 2");
	refuse("{\"name\":\"a\"", "ends too early");
	refuse("{} {}", "more text");
	refuse("[]", "an object in braces, not an array");
	refuse("\"vm1\"", "an object in braces, not a string");
	refuse("null", "not null");
	refuse("{\"name\":\"\xff\"}", "not JSON");
}

static void test_deep_nesting_is_refused(void **state)
{
	char *text = malloc(20002);

	(void)state;
	assert_non_null(text);
	memset(text, '[', 10000);
	memset(text + 10000, ']', 10000);
	text[20000] = 0;
	refuse(text, "not JSON");
	free(text);
}

static void test_unknown_and_missing_keys_are_refused(void **state)
{
	(void)state;
	refuse_key("\"memroy\":1", "\"memroy\" is not a key of a definition (did you mean \"memory\"?); known here: version, name");
	refuse_key("\"boot\":{\"kernal\":\"/k\"}",
		"boot: \"kernal\" is not a key (did you mean \"kernel\"?); known here: kernel, firmware");
	refuse_key("\"firmware\":\"bios\"", ", ..."); /* a list that is too long ends behind a whole key */
	refuse_disk("\"io\":\"native\"", "disks[0]: \"io\" is not a key");
	refuse("{\"memory\":1,\"boot\":{\"kernel\":\"/k\"}}", "name: is missing");
	refuse("{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"}}", "memory: is missing");
	refuse("{\"name\":\"a\",\"memory\":1}", "boot: nothing to start");
	refuse_key("\"version\":2", "version: 2 is unknown");
	refuse_key("\"version\":\"1\"", "version: must be the number 1, not a string");
}

static void test_name_is_checked(void **state)
{
	char key[400], name[301];

	(void)state;
	memset(name, 'a', 300);
	name[300] = 0;
	snprintf(key, sizeof(key), "\"name\":\"%s\"", name);
	refuse_key(key, "name: is 300 bytes long; at most 255");
	refuse_key("\"name\":\"\"", "name: is empty");
	refuse_key("\"name\":\"a/b\"", "name: must not have a \"/\"");
	refuse_key("\"name\":\"..\"", "name: must not begin with \".\"");
	refuse_key("\"name\":\"-rf\"", "name: must not begin with \"-\"");
	refuse_key("\"name\":\"a\\nb\"", "name: must not have control characters");
	refuse_key("\"name\":\"a\\u0000b\"", "name: must not have a NUL");
	refuse_key("\"name\":7", "name: must be a string, not a number");
	name[255] = 0;
	snprintf(key, sizeof(key), "\"name\":\"%s\"", name);
	definition_free(accept(key));
}

static void test_memory_is_checked(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = { { "1", MIB }, { "\"1M\"", MIB }, { "\"2G\"", 2 * GIB }, { "\"2GiB\"", 2 * GIB },
		{ "\"512\"", 512 * MIB }, { "\"512MB\"", 512000000 }, { "\"1.5G\"", 1536 * MIB },
		{ "\"1028K\"", 1028 * KIB }, { "\"1T\"", 1024 * GIB } };

	(void)state;
	refuse_key("\"memory\":0", "memory: 0 is too little; give at least 1 MiB");
	refuse_key("\"memory\":\"0\"", "memory: 0 is too little");
	refuse_key("\"memory\":\"10T\"", "memory: 10T is too much; at most 1 TiB");
	refuse_key("\"memory\":10485760", "too much");
	refuse_key("\"memory\":9223372036854775807", "too much");
	refuse_key("\"memory\":\"99999999999999999999999999T\"", "too much");
	refuse_key("\"memory\":-1", "memory: must not be negative");
	refuse_key("\"memory\":\"lots\"", "memory: \"lots\" is not a size; use \"512M\"");
	refuse_key("\"memory\":\"128X\"", "is not a size");
	refuse_key("\"memory\":\"128MM\"", "is not a size");
	refuse_key("\"memory\":\"\"", "is not a size");
	refuse_key("\"memory\":\"1025K\"", "memory: 1025K is not a multiple of 4 KiB");
	refuse_key("\"memory\":1.5", "memory: must be a size such as");
	refuse_key("\"memory\":[1]", "not an array");
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct definition *d;
		char key[64];

		snprintf(key, sizeof(key), "\"memory\":%s", good[i].text);
		d = accept(key);
		assert_int_equal(d->ram_bytes, good[i].bytes);
		definition_free(d);
	}
}

static void test_cpus_and_topology_are_checked(void **state)
{
	(void)state;
	refuse_key("\"vcpus\":0", "vcpus: 0 is out of range; give 1 to 64");
	refuse_key("\"vcpus\":10000", "vcpus: 10000 is out of range; give 1 to 64");
	refuse_key("\"vcpus\":-1", "out of range");
	refuse_key("\"cpu_shares\":1", "cpu_shares: 1 is out of range; give 2 to 262144");
	refuse_key("\"memory_max\":\"1K\"", "memory_max: ");
	refuse_key("\"cpu_quota\":0", "cpu_quota: 0 is out of range; give 1 to 25600");
	refuse_key("\"vcpus\":\"2\"", "vcpus: must be a whole number from 1 to 64, not a string");
	refuse_key("\"vcpus\":1.5", "not a number with a fraction");
	refuse_key("\"vcpus\":4294967297", "out of range");
	refuse_key("\"vcpus\":4,\"topology\":{\"cores\":3}", "topology: 1 sockets x 3 cores");
	refuse_key("\"topology\":{\"cores\":0}", "topology.cores: 0 is out of range");
	refuse_key("\"topology\":{\"dies\":1}", "topology: \"dies\" is not a key");
	refuse_key("\"topology\":4", "topology: must be an object");
	definition_free(accept("\"vcpus\":8,\"topology\":{\"sockets\":2,\"cores\":2,\"threads\":2}"));
}

static void test_uuid_is_checked(void **state)
{
	struct definition *d;

	(void)state;
	refuse_key("\"uuid\":\"123\"", "uuid: \"123\" is not a UUID such as");
	refuse_key("\"uuid\":\"2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11x\"", "is not a UUID");
	refuse_key("\"uuid\":\"2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7bg1\"", "is not a UUID");
	refuse_key("\"uuid\":\"00000000-0000-0000-0000-000000000000\"", "must not be all zeros");
	refuse_key("\"uuid\":1", "uuid: must be a string");
	d = accept("\"uuid\":\"2F1C0C0E-5D3A-4B53-9C39-0D8F1C6A7B11\"");
	assert_int_equal(d->uuid[15], 0x11);
	definition_free(d);
}

static void test_boot_keys_are_checked(void **state)
{
	char key[2200];

	(void)state;
	refuse_key("\"boot\":{\"firmware\":\"efi\"}", "boot.firmware: \"efi\" is not one of the choices; use auto, bios or uefi");
	refuse_key("\"boot\":{\"firmware\":\"bios\",\"nvram_template\":\"/v\"}", "boot.nvram_template: only UEFI has variables");
	refuse_key("\"boot\":{\"firmware\":\"uefi\",\"loader\":\"/code\"}", "boot.nvram_template: is missing");
	refuse_key("\"boot\":{\"kernel\":\"/k\",\"firmware\":\"bios\"}",
		"boot: a firmware boots from a disk; give either boot.firmware, or boot.kernel");
	refuse_key("\"boot\":{\"firmware\":\"bios\",\"cmdline\":\"x\"}", "boot: a firmware boots from a disk");
	refuse_key("\"boot\":{\"kernel\":\"/k\",\"loader\":\"/l\"}", "boot: loader, menu and menu_timeout are for a VM with");
	refuse_key("\"boot\":{\"kernel\":\"/k\",\"menu\":true}", "boot: loader, menu and menu_timeout are for a VM with");
	refuse_key("\"boot\":{\"firmware\":\"bios\",\"menu_timeout\":70000}", "boot.menu_timeout: ");
	refuse("{\"name\":\"a\",\"memory\":64,\"boot\":{\"firmware\":\"bios\",\"menu_timeout\":70}}",
		"boot.menu_timeout: has no effect without a menu");
	refuse("{\"name\":\"a\",\"memory\":32,\"boot\":{\"firmware\":\"uefi\"}}", "memory: a VM with UEFI needs at least 64 MiB");
	refuse("{\"name\":\"a\",\"memory\":8,\"boot\":{\"firmware\":\"bios\"}}", "memory: a VM with a firmware needs at least 16 MiB");
	refuse_key("\"boot\":{\"kernel\":\"\"}", "boot.kernel: is empty");
	refuse_key("\"boot\":{\"kernel\":1}", "boot.kernel: must be a string");
	refuse_key("\"boot\":{\"kernel\":\"/k\",\"cmdline\":\"a\\nb\"}",
		"boot.cmdline: must be one line");
	memset(key, 'x', sizeof(key));
	memcpy(key, "\"boot\":{\"cmdline\":\"", 19);
	memcpy(key + 2100, "\"}", 3);
	refuse_key(key, "boot.cmdline: is 2081 bytes long; at most 2047");
	refuse("{\"name\":\"a\",\"memory\":1,\"boot\":{\"initrd\":\"/i\",\"cmdline\":\"x\"}}",
		"boot: initrd and cmdline are for a kernel; give boot.kernel, or remove them");
	refuse("{\"name\":\"a\",\"memory\":1,\"boot\":{\"cmdline\":\"x\"},\"disks\":[{\"path\":\"/d\",\"format\":\"raw\"}]}",
		"boot: initrd and cmdline are for a kernel; give boot.kernel, or remove them");
	refuse_key("\"boot\":[]", "boot: must be an object in braces, not an array");
}

static void test_disk_keys_are_checked(void **state)
{
	(void)state;
	refuse_disk("\"format\":\"vmdk\"",
		"disks[0].format: \"vmdk\" is not a disk format; use raw or qcow2");
	refuse_disk("\"format\":1", "disks[0].format: must be a string");
	refuse_disk("\"id\":\"\"", "disks[0].id: must have 1 to 15");
	refuse_disk("\"id\":\"a b\"", "disks[0].id: may have letters");
	refuse_disk("\"id\":\"0123456789abcdef\"", "disks[0].id: must have 1 to 15");
	refuse_disk("\"serial\":\"012345678901234567890\"", "disks[0].serial: is 21 characters");
	refuse_disk("\"serial\":\"\xc3\xa4\"", "disks[0].serial: must be printable ASCII");
	refuse_disk("\"queues\":9", "disks[0].queues: 9 is out of range; give 0 to 8");
	refuse_disk("\"iops\":0", "disks[0].iops: 0 is out of range");
	refuse_disk("\"bps\":4095", "disks[0].bps: must be from 4096 bytes to 1T a second");
	refuse_disk("\"bps\":-1", "disks[0].bps: must be from 4096 bytes to 1T a second");
	refuse_disk("\"bps\":\"2T\"", "disks[0].bps: must be from 4096 bytes to 1T a second");
	refuse_disk("\"bps\":\"fast\"", "disks[0].bps: must be a number of bytes a second, or a size such as \"20M\"");
	refuse_disk("\"bus\":\"ide\"", "disks[0].bus: ");
	refuse_disk("\"wwn\":\"5000c50015ea71aa\"", "wwn: only a disk with \"bus\": \"scsi\" has one");
	refuse_disk("\"bus\":\"scsi\",\"wwn\":\"5000c50015ea71a\"", "disks[0].wwn: must be 16 hexadecimal digits");
	refuse_disk("\"bus\":\"scsi\",\"wwn\":\"15000c50015ea71aa\"", "disks[0].wwn: must be 16 hexadecimal digits");
	refuse_disk("\"bus\":\"scsi\",\"queues\":2", "queues: the disks with bus scsi share a controller");
	refuse_disk("\"logical_block_size\":520", "logical_block_size: must be 512, 1024, 2048 or 4096");
	refuse_disk("\"logical_block_size\":4096,\"physical_block_size\":512", "physical_block_size: 512 is less than logical_block_size");
	refuse_disk("\"bus\":\"scsi\",\"device\":\"cdrom\",\"logical_block_size\":512", "a CD drive has blocks of 2048 bytes");
	refuse_disk("\"detect_zeroes\":true", "disks[0].detect_zeroes: ");
	refuse_disk("\"cache\":\"writethrough\"", "use none, writeback or unsafe");
	refuse_disk("\"poll_max_ns\":254001", "poll_max_ns: must be 0 to 254000 ns; 0 turns polling off");
	refuse_disk("\"poll_max_ns\":-1", "poll_max_ns: must be 0 to 254000 ns");
	refuse_disk("\"poll_max_ns\":\"0\"", "poll_max_ns: must be 0 to 254000 ns");
	refuse_disk("\"queue_size\":3", "queue_size: 3 is not a power of two");
	refuse_disk("\"queue_size\":1", "queue_size: 1 is not a power of two");
	refuse_disk("\"queue_size\":65536", "queue_size: 65536 is out of range");
	refuse_disk("\"errors\":\"panic\"", "use report, stop or ignore");
	refuse_disk("\"readonly\":\"no\"", "disks[0].readonly: must be true or false, not a string");
	refuse_disk("\"backing\":[{\"path\":\"/b\",\"format\":\"raw\"}]",
		"disks[0]: backing: a raw image has no backing file");
	refuse_disk("\"backing\":[{\"path\":\"/b\"}]", "disks[0].backing[0]: format is missing");
	refuse_disk("\"backing\":[{\"format\":\"raw\"}]", "disks[0].backing[0]: path is missing");
	refuse_disk("\"backing\":\"/b\"", "disks[0].backing: must be an array");
	refuse_key("\"disks\":[{\"path\":\"/d\"}]", "disks[0]: format is missing; give raw or qcow2");
	refuse_key("\"disks\":[{\"format\":\"raw\"}]", "disks[0]: path is missing");
	refuse_key("\"disks\":{}", "disks: must be an array of disks, not an object");
	refuse_key("\"disks\":[1]", "disks[0]: must be an object in braces, not a number");
	refuse_key("\"disks\":[{" DISK "},{" DISK "}]", "disks[1].path: is also the image of disks[0]");
	refuse_key("\"disks\":[{" DISK ",\"id\":\"vdb\"},{\"path\":\"/e\",\"format\":\"raw\"}]",
		"disks[1].id: \"vdb\" is also the id of disks[0]");
}

static void test_too_many_disks_are_refused(void **state)
{
	char key[4096] = "\"disks\":[", layers[2048] = "\"format\":\"qcow2\",\"backing\":[";

	(void)state;
	for (unsigned i = 0; i < 25; i++)
		snprintf(key + strlen(key), sizeof(key) - strlen(key),
			"%s{\"path\":\"/%u\",\"format\":\"raw\"}", i ? "," : "", i);
	strcat(key, "]");
	refuse_key(key, "disks: has 25 disks; at most 24");
	for (unsigned i = 0; i < 16; i++)
		snprintf(layers + strlen(layers), sizeof(layers) - strlen(layers),
			"%s{\"path\":\"/%u\",\"format\":\"qcow2\"}", i ? "," : "", i);
	strcat(layers, "]");
	refuse_disk(layers, "disks[0].backing: has 16 layers; at most 15");
}

static void test_other_keys_are_checked(void **state)
{
	(void)state;
	refuse_key("\"on_crash\":\"dump\"", "on_crash: \"dump\" is not one of the choices; "
					    "use destroy, restart, preserve, coredump-destroy or coredump-restart");
	refuse_key("\"assist\":true", "assist: must be a string, not true or false");
	refuse_key("\"assist\":\"yes\"", "use auto, on or off");
	refuse_key("\"rng\":1", "rng: must be true or false, not a number");
	refuse_key("\"console\":{\"virtio\":\"yes\"}", "console.virtio: must be true or false");
	refuse_key("\"restart\":{\"tries\":-1}", "restart.tries: -1 is out of range; give 0 to 1000");
	refuse_key("\"restart\":{\"delay\":90}", "restart: max_delay (60 s) is less than delay (90 s)");
	refuse_key("\"restart\":{\"every\":1}", "known here: delay, max_delay, tries, window");
	refuse_key("\"shutdown\":{\"then\":\"kill\"}", "use leave, destroy or save");
	refuse_key("\"idle\":{}", "idle: after is missing");
	refuse_key("\"idle\":{\"after\":\"soon\"}", "idle.after: \"soon\" is not a duration from 1s to 366d");
	refuse_key("\"idle\":{\"after\":\"367d\"}", "idle.after: \"367d\" is not a duration from 1s to 366d");
	refuse_key("\"idle\":{\"after\":\"0m\"}", "idle.after: \"0m\" is not a duration");
	refuse_key("\"idle\":7", "idle: must be an object in braces");
	refuse_key("\"stop_action\":\"destroy\"", "use leave, shutdown or save");
	refuse_key("\"shutdown_deadline\":0", "shutdown_deadline: 0 is out of range");
	refuse_key("\"title\":\"a\\tb\"", "title: must be one line");
	refuse_key("\"description\":null", "description: must be a string, not null");
}

static void test_relative_paths_are_resolved(void **state)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct definition *d = accept("\"disks\":[{\"path\":\"sub/d\",\"format\":\"raw\"}]");
	static const char text[] = "{\"name\":\"a\",\"memory\":1,\"boot\":{\"kernel\":\"k\"}}";
	struct err e;

	(void)state;
	assert_string_equal(d->disks[0].layers[0].path, "/folder/sub/d");
	definition_free(d);
	d = NULL;
	assert_int_equal(js_parse(text, strlen(text), "x", &o, &e), 0);
	assert_int_equal(definition_parse(o, NULL, &d, &e), -22);
	assert_string_equal(e.msg, "boot.kernel: must be an absolute path");
}

static void refuse_interface(const char *keys, const char *words)
{
	char text[1024];

	snprintf(text, sizeof(text), "\"interfaces\":[%s]", keys);
	refuse_key(text, words);
}

static void test_interface_keys_are_checked(void **state)
{
	(void)state;
	refuse_key("\"interfaces\":{}", "interfaces: must be an array of interfaces");
	refuse_interface("{}", "interfaces[0]: type is missing; use network, bridge or user");
	refuse_interface("{\"type\":\"tap\"}", "interfaces[0].type: \"tap\" is not one of the choices");
	refuse_interface("{\"type\":\"network\"}", "source is missing; give the name of the network");
	refuse_interface("{\"type\":\"bridge\"}", "source is missing; give the name of the bridge");
	refuse_interface("{\"type\":\"user\",\"source\":\"a\"}", "an interface of type user has no source");
	refuse_interface("{\"type\":\"bridge\",\"source\":\"../br0\"}", "source: must begin with a letter");
	refuse_interface("{\"type\":\"network\",\"source\":\"a/b\"}", "may have letters, digits");
	refuse_interface("{\"type\":\"bridge\",\"source\":\"a123456789012345\"}", "has at most 15");
	refuse_interface("{\"type\":\"user\",\"mac\":\"52:54:00:12:34\"}", "mac: \"52:54:00:12:34\" is not a MAC");
	refuse_interface("{\"type\":\"user\",\"mac\":\"52:54:00:12:34:5g\"}", "is not a MAC address");
	refuse_interface("{\"type\":\"user\",\"mac\":\"01:00:5e:00:00:01\"}", "is a multicast address");
	refuse_interface("{\"type\":\"user\",\"mac\":\"00:00:00:00:00:00\"}", "must not be all zeros");
	refuse_interface("{\"type\":\"user\",\"model\":\"e1000\"}", "model: \"e1000\" is not one of the choices");
	refuse_interface("{\"type\":\"user\"},{\"type\":\"user\",\"id\":\"net0\"}",
		"interfaces[1].id: \"net0\" is also the id of interfaces[0]");
	refuse_interface("{\"type\":\"user\",\"slot\":31}", "slot: 31 is out of range; give 1 to 30");
	refuse_interface("{\"type\":\"user\",\"slot\":8},{\"type\":\"user\",\"slot\":8}", "interfaces[1].slot: 8 is also the slot of interfaces[0]");
	refuse_key("\"machine\":1,\"interfaces\":[{\"type\":\"user\",\"slot\":8}]",
		"interfaces[0].slot: has no effect with machine version 1; set machine to 7, or remove slot");
	refuse_interface("{\"type\":\"user\",\"mac\":\"52:54:00:12:34:56\"},"
			 "{\"type\":\"user\",\"mac\":\"52:54:00:12:34:56\"}",
		"interfaces[1].mac: is also the address of interfaces[0]");
}

#define USER "{\"type\":\"user\","

static void refuse_forwards(const char *list, const char *words)
{
	char text[512];

	snprintf(text, sizeof(text), USER "\"forwards\":%s}", list);
	refuse_interface(text, words);
}

static void test_user_network_keys_are_checked(void **state)
{
	char many[1024] = "[";

	(void)state;
	refuse_interface("{\"type\":\"bridge\",\"source\":\"b\",\"restrict\":true}",
		"interfaces[0]: network, restrict and host_loopback require type user");
	refuse_interface("{\"type\":\"bridge\",\"source\":\"b\",\"forwards\":[{\"port\":1,\"to\":1}]}",
		"interfaces[0]: forwards require type user or network; remove them");
	refuse_interface(USER "\"network\":\"10.0.2.0\"}", "\"10.0.2.0\" is not a network such as 10.0.2.0/24, with /8 to /27");
	for (size_t i = 0; i < 6; i++) {
		static const char *const wrong[] = { "10.0.2.0/28", "10.0.2.0/7", "10.0.2.0/024", "10.0.2/24", "10.0.2.0/24x",
			"111.111.111.1111/24" };

		snprintf(many, sizeof(many), USER "\"network\":\"%s\"}", wrong[i]);
		refuse_interface(many, "is not a network such as");
	}
	refuse_interface(USER "\"network\":\"10.9.8.7/16\"}", "is an address of a host; its network is 10.9.0.0/16");
	refuse_interface(USER "\"network\":\"127.0.0.0/8\"}", "cannot be a guest's network");
	refuse_interface(USER "\"network\":\"224.0.0.0/8\"}", "cannot be a guest's network");
	refuse_forwards("{}", "interfaces[0].forwards: must be an array of {port, to}");
	refuse_forwards("[{\"to\":22}]", "interfaces[0].forwards[0]: port is missing");
	refuse_forwards("[{\"port\":22}]", "interfaces[0].forwards[0]: to is missing");
	refuse_forwards("[{\"port\":0,\"to\":1}]", "interfaces[0].forwards[0].port: 0 is out of range; give 1 to 65535");
	refuse_forwards("[{\"port\":1,\"to\":65536}]", "interfaces[0].forwards[0].to: 65536 is out of range");
	refuse_forwards("[{\"port\":1,\"to\":1,\"protocol\":\"sctp\"}]", "protocol: \"sctp\" is not one of the choices");
	refuse_forwards("[{\"port\":1,\"to\":1,\"address\":\"localhost\"}]", "names are not looked up");
	refuse_forwards("[{\"port\":1,\"to\":1,\"address\":\"::1\"}]", "::1 is an IPv6 address, which requires type network");
	refuse_forwards("[{\"port\":1,\"to\":1,\"address\":\"fe80::1\"}]", "fe80::1 cannot be listened on");
	refuse_forwards("[{\"port\":1,\"to\":1,\"guest\":\"::1\"}]", "\"::1\" is not an IPv4 address");
	refuse_forwards("[{\"port\":1,\"to\":1},{\"port\":1,\"to\":2}]",
		"interfaces[0].forwards[1]: tcp 127.0.0.1:1 is also used by interfaces[0].forwards[0]");
	refuse_forwards("[{\"port\":1,\"to\":1}]}," USER "\"forwards\":[{\"port\":1,\"to\":2,\"address\":\"0.0.0.0\"}]",
		"interfaces[1].forwards[0]: tcp 0.0.0.0:1 is also used by interfaces[0].forwards[0]");
	for (size_t i = 0; i < 5; i++) {
		static const char *const wrong[] = { "10.0.2.2", "10.0.2.3", "10.0.2.0", "10.0.2.255", "10.0.3.15" };

		snprintf(many, sizeof(many), "[{\"port\":1,\"to\":1,\"guest\":\"%s\"}]", wrong[i]);
		refuse_forwards(many, "is not an address that the guest can have in 10.0.2.0/24");
	}
	many[0] = '[';
	many[1] = 0;
	for (unsigned i = 1; i <= DEFINITION_FORWARDS_MAX + 1; i++)
		snprintf(many + strlen(many), sizeof(many) - strlen(many), "%s{\"port\":%u,\"to\":1}", i > 1 ? "," : "", i);
	strcat(many, "]");
	refuse_forwards(many, "has 17 forwards; at most 16");
}

static void refuse_egress(const char *value, const char *words)
{
	char text[512];

	snprintf(text, sizeof(text), USER "\"egress\":%s}", value);
	refuse_interface(text, words);
}

static void refuse_rule(const char *rule, const char *words)
{
	char text[512];

	snprintf(text, sizeof(text), "{\"rules\":[%s]}", rule);
	refuse_egress(text, words);
}

static void test_egress_keys_are_checked(void **state)
{
	char many[8192] = "[{}";

	(void)state;
	refuse_interface("{\"type\":\"bridge\",\"source\":\"b\",\"egress\":{}}", "interfaces[0]: egress requires type user");
	refuse_egress("[]", "interfaces[0].egress: must be an object in braces");
	refuse_egress("{\"default\":\"drop\"}", "egress.default: \"drop\" is not one of the choices; use deny or allow");
	refuse_egress("{\"rules\":{}}", "egress.rules: must be an array of rules");
	refuse_rule("{}", "egress.rules[0]: must have one of allow and deny");
	refuse_rule("{\"allow\":\"any\",\"deny\":\"any\"}", "must have one of allow and deny");
	refuse_rule("{\"allow\":\"10.0.0.1/8\"}", "egress.rules[0].allow: \"10.0.0.1/8\" has bits beyond its length");
	refuse_rule("{\"allow\":\"10.0.0.0/33\"}", "has a wrong length behind the slash");
	refuse_rule("{\"allow\":\"10.0.0\"}", "is neither an address such as");
	refuse_rule("{\"allow\":\"::ffff:10.0.0.1\"}", "give the IPv4 address");
	refuse_rule("{\"deny\":\"a..b\"}", "is no DNS name");
	refuse_rule("{\"deny\":\"www.*.org\"}", "is no DNS name");
	refuse_rule("{\"deny\":\"\"}", "is neither an address");
	refuse_rule("{\"allow\":\"any\",\"ports\":0}", "egress.rules[0].ports: must be ports from 1 to 65535");
	refuse_rule("{\"allow\":\"any\",\"ports\":\"90-80\"}", "must be ports from 1 to 65535");
	refuse_rule("{\"allow\":\"any\",\"ports\":\"1,2,3,4,5,6,7,8,9\"}", "has more than 8 ports");
	refuse_rule("{\"allow\":\"any\",\"protocol\":\"icmp\",\"ports\":1}", "icmp has no ports");
	refuse_rule("{\"allow\":\"any\",\"protocol\":\"sctp\"}", "protocol: \"sctp\" is not one of the choices");
	for (unsigned i = 0; i < 64; i++)
		strcat(many, ",{}");
	strcat(many, "]");
	{
		char text[8300];

		snprintf(text, sizeof(text), "\"interfaces\":[" USER "\"egress\":{\"rules\":%s}}]", many);
		refuse_key(text, "has 65 rules; at most 64");
	}
}

static void test_overlapping_forwards_are_refused(void **state)
{
	struct definition_forward a = { DEFINITION_TCP, "127.0.0.1", 80, 80, "" }, b = a;
	char text[DEFINITION_FORWARD_TEXT];

	(void)state;
	assert_true(definition_forwards_meet(&a, &b));
	strcpy(b.address, "127.0.0.2");
	assert_false(definition_forwards_meet(&a, &b));
	strcpy(b.address, "0.0.0.0");
	assert_true(definition_forwards_meet(&a, &b));
	assert_true(definition_forwards_meet(&b, &a));
	b.port = 81;
	assert_false(definition_forwards_meet(&a, &b));
	b.port = 80;
	b.protocol = DEFINITION_UDP;
	assert_false(definition_forwards_meet(&a, &b));
	definition_forward_print(&b, text);
	assert_string_equal(text, "udp 0.0.0.0:80");
}

static void test_cdrom_keys_are_checked(void **state)
{
	(void)state;
	refuse_key("\"disks\":[{\"device\":\"floppy\"}]", "device: \"floppy\" is not one of the choices");
	refuse_key("\"disks\":[{\"device\":\"cdrom\",\"format\":\"raw\"}]", "path is missing; give the path of the medium");
	refuse_key("\"disks\":[{\"device\":\"cdrom\",\"path\":\"/i\"}]", "format is missing");
	refuse_key("\"disks\":[{\"device\":\"disk\"}]", "path is missing; give the path of the image");
	refuse_disk("\"boot_order\":0", "boot_order: 0 is out of range");
	refuse_key("\"disks\":[{" DISK ",\"boot_order\":1},{\"device\":\"cdrom\",\"boot_order\":1}]",
		"disks[1].boot_order: 1 is also the boot_order of disks[0]");
	refuse_key("\"disks\":[{" DISK ",\"boot_order\":1}],\"interfaces\":[{\"type\":\"user\",\"boot_order\":1}]",
		"interfaces[0].boot_order: 1 is also the boot_order of disks[0]");
	refuse_key("\"interfaces\":[{\"type\":\"user\",\"boot_order\":7},{\"type\":\"user\",\"boot_order\":7}]",
		"interfaces[1].boot_order: 7 is also the boot_order of interfaces[0]");
	refuse_key("\"vsock\":3", "vsock: must be true, false or an object in braces, not ");
	refuse_key("\"vsock\":{\"cid\":2}", "vsock.cid: 2 is out of range; give 3 to 4294967294");
	refuse_key("\"vsock\":{\"port\":2}", "\"port\" is not a key");
	refuse_key("\"vsock\":{\"path\":\"/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456\"}",
		"vsock: path: is 98 bytes long; the path of a socket has at most 96");
	refuse_key("\"shares\":[{\"path\":\"/s\"}]", "shares[0]: tag: is missing");
	refuse_key("\"shares\":[{\"path\":\"/s\",\"tag\":\"\"}]", "shares[0].tag: is empty");
	refuse_key("\"shares\":[{\"path\":\"/s\",\"tag\":\"t\"},{\"path\":\"/r\",\"tag\":\"t\"}]", "shares[1]: tag: is also the tag of shares[0]");
	refuse_key("\"clock\":\"gmt\"", "clock: \"gmt\" is not one of the choices; use utc or localtime");
}

static void test_sysinfo_is_encoded_and_checked(void **state)
{
#define BIOS_VM "{\"name\":\"a\",\"memory\":64,\"disks\":[{\"path\":\"/a\",\"format\":\"raw\"}],"
	static const char want[] = "\2P\0\4S 1\0\x08" "V\0\x0e" "B\0\x14" "A\0\7one\0\7two";
	CLEANUP_JS struct json_object *o = NULL;
	char oem[33 * 4 + 128] = BIOS_VM "\"sysinfo\":{\"oem_strings\":[\"a\"", long_one[2200];
	struct config_files files;
	struct definition *d;
	struct config c;
	struct err e;

	(void)state;
	assert_int_equal(parse_text(BIOS_VM "\"sysinfo\":{\"serial\":\"S 1\",\"product\":\"P\",\"sku\":\"\","
		"\"chassis\":{\"asset\":\"A\"},"
		"\"board\":{\"serial\":\"B\"},\"bios\":{\"vendor\":\"V\"},\"oem_strings\":[\"one\",\"two\"]}}", &d, &e), 0);
	assert_int_equal(config_prepare(d, false, &c, &files, &e), 0);
	assert_memory_equal(c.vm.sysinfo, want, sizeof(want));
	assert_int_equal(c.vm.sysinfo[sizeof(want)], 0);
	o = definition_to_json(d);
	assert_string_equal(json_object_to_json_string_ext(js_get(o, "sysinfo"), JSON_C_TO_STRING_PLAIN),
		"{\"product\":\"P\",\"serial\":\"S 1\",\"sku\":\"\",\"bios\":{\"vendor\":\"V\"},\"board\":{\"serial\":\"B\"},\"chassis\":{\"asset\":\"A\"},"
		"\"oem_strings\":[\"one\",\"two\"]}");
	definition_free(d);
	refuse(BIOS_VM "\"sysinfo\":{\"oem_strings\":[\"\"]}}", "sysinfo.oem_strings[0]: is empty");
	refuse(BIOS_VM "\"sysinfo\":{\"oem_strings\":[\"a\",\"b\\n\"]}}", "sysinfo.oem_strings[1]: ");
	refuse(BIOS_VM "\"sysinfo\":{\"oem_strings\":\"a\"}}", "sysinfo.oem_strings: must be an array of strings");
	refuse(BIOS_VM "\"sysinfo\":{\"uuid\":\"a\"}}", "sysinfo: \"uuid\" is not a key");
	refuse(BIOS_VM "\"sysinfo\":{\"chassis\":{\"product\":\"a\"}}}", "sysinfo.chassis: \"product\" is not a key");
	for (unsigned i = 0; i < 32; i++)
		strcat(oem, ",\"a\"");
	strcat(oem, "]}}");
	refuse(oem, "sysinfo.oem_strings: has 33 strings; at most 32");
	snprintf(long_one, sizeof(long_one), BIOS_VM "\"sysinfo\":{\"serial\":\"s\",\"oem_strings\":[\"%02045d\"]}}", 0);
	refuse(long_one, "sysinfo: its texts have 2050 bytes in all; at most 2047");
}

/* The canonical JSON of a definition with all keys parses to the same canonical JSON. */
static void test_canonical_json_round_trips(void **state)
{
	static const char all[] =
		"\"version\":1,\"uuid\":\"2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11\",\"title\":\"T \xc3\xa4\","
		"\"description\":\"D\",\"memory\":\"1028K\",\"vcpus\":4,\"topology\":{\"cores\":2,"
		"\"threads\":2},\"boot\":{\"kernel\":\"/k\",\"initrd\":\"i\",\"cmdline\":\"a=b \\\"c\\\"\"},"
		"\"disks\":[{\"id\":\"root\",\"path\":\"/a\",\"format\":\"qcow2\",\"serial\":\"S1\","
		"\"queues\":2,\"queue_size\":64,\"errors\":\"stop\",\"iops\":9,\"bps\":\"20M\",\"data_file\":\"/a.data\","
		"\"backing\":[{\"path\":\"/b\",\"format\":\"raw\"}]},{\"path\":\"/c\",\"format\":\"raw\",\"readonly\":true},"
		"{\"device\":\"cdrom\",\"boot_order\":2}],\"clock\":\"localtime\",\"cpu_shares\":2,\"memory_max\":\"640M\",\"cpu_quota\":150,\"systemd_scope\":true,"
		"\"interfaces\":[{\"type\":\"bridge\",\"source\":\"br0\",\"mac\":\"52:54:00:AA:bb:01\",\"link\":\"down\",\"boot_order\":3},"
		"{\"id\":\"lan\",\"type\":\"user\",\"forwards\":[{\"port\":2222,\"to\":22,\"guest\":\"10.0.2.20\"}],\"egress\":{\"rules\":["
		"{\"allow\":\"*.Example.org.\",\"protocol\":\"tcp\",\"ports\":443},{\"deny\":\"10.0.0.0/8\"},{\"deny\":\"::/0\"},"
		"{\"allow\":\"any\",\"ports\":\"80,8000-8100\"}]}}],"
		"\"shares\":[{\"path\":\"s\",\"tag\":\"t\"},{\"path\":\"/w\",\"tag\":\"w\",\"readonly\":false}],"
		"\"console\":{\"virtio\":true},\"guest_agent\":true,\"rng\":true,\"vsock\":{\"cid\":9,\"path\":\"s\"},\"debug_exit\":true,\"watchdog\":{\"action\":\"inject-nmi\"},\"hugepages\":true,"
		"\"assist\":\"off\",\"on_poweroff\":\"restart\",\"on_reboot\":\"destroy\","
		"\"on_crash\":\"preserve\",\"restart\":{\"delay\":2,\"max_delay\":9,\"tries\":0,\"window\":7},"
		"\"shutdown\":{\"deadline\":5,\"then\":\"save\"},\"idle\":{\"after\":\"90m\",\"action\":\"save\"},"
		"\"order\":3,\"start_delay\":4,\"stop_action\":\"shutdown\"";
	struct definition *d = accept(all), *d2 = NULL;
	CLEANUP_JS struct json_object *o = definition_to_json(d);
	CLEANUP_JS struct json_object *o2 = NULL;
	struct json_object *i;
	struct err e;

	(void)state;
	assert_string_equal(d->disks[1].id, "vdb");
	assert_int_equal(d->disks[0].nlayers, 2);
	assert_string_equal(d->disks[0].layers[0].data_file, "/a.data");
	assert_int_equal(definition_parse(o, NULL, &d2, &e), 0);
	o2 = definition_to_json(d2);
	assert_true(json_object_equal(o, o2));
	assert_string_equal(js_get_str(js_get(o, "boot"), "initrd"), "/folder/i");
	assert_string_equal(js_get_str(o, "memory"), "1028K");
	assert_int_equal(d->disks[2].nlayers, 0);
	assert_true(d->disks[2].read_only);
	assert_string_equal(js_get_str(o, "clock"), "localtime");
	i = json_object_array_get_idx(js_get_array(o, "interfaces"), 0);
	assert_string_equal(js_get_str(i, "id"), "net0");
	assert_string_equal(js_get_str(i, "mac"), "52:54:00:aa:bb:01");
	assert_string_equal(js_get_str(i, "link"), "down");
	i = json_object_array_get_idx(js_get_array(o, "interfaces"), 1);
	assert_string_equal(js_get_str(i, "id"), "lan");
	assert_null(js_get(i, "mac"));
	assert_string_equal(json_object_to_json_string_ext(js_get(i, "egress"), JSON_C_TO_STRING_NOSLASHESCAPE | JSON_C_TO_STRING_PLAIN),
		"{\"default\":\"deny\",\"rules\":[{\"allow\":\"*.example.org\",\"protocol\":\"tcp\",\"ports\":\"443\"},"
		"{\"deny\":\"10.0.0.0/8\"},{\"deny\":\"::/0\"},{\"allow\":\"any\",\"ports\":\"80,8000-8100\"}]}");
	assert_string_equal(js_get_str(i, "network"), "10.0.2.0/24");
	assert_string_equal(js_get_str(json_object_array_get_idx(js_get_array(i, "forwards"), 0), "address"), "127.0.0.1");
	assert_int_equal(js_get_int(js_get(o, "vsock"), "cid", 0), 9);
	assert_string_equal(js_get_str(js_get(o, "vsock"), "path"), "/folder/s");
	assert_string_equal(json_object_to_json_string_ext(js_get(o, "shares"), JSON_C_TO_STRING_NOSLASHESCAPE | JSON_C_TO_STRING_PLAIN),
		"[{\"path\":\"/folder/s\",\"tag\":\"t\",\"readonly\":true},{\"path\":\"/w\",\"tag\":\"w\",\"readonly\":false}]");
	assert_string_equal(js_get_str(o, "on_crash"), "preserve");
	assert_int_equal(d->restart.delay_s, 2);
	assert_int_equal(d->restart.max_delay_s, 9);
	assert_int_equal(d->restart.tries, 0);
	assert_int_equal(d->restart.window_s, 7);
	assert_int_equal(d->shutdown_deadline_s, 5);
	assert_int_equal(d->shutdown_then, DEFINITION_SAVE);
	assert_int_equal(d->idle_after_s, 5400);
	assert_string_equal(js_get_str(js_get(o, "idle"), "action"), "save");
	assert_int_equal(d->start_delay_s, 4);
	assert_int_equal(js_get_int(o, "cpu_shares", 0), 2);
	assert_int_equal(js_get_int(o, "cpu_quota", 0), 150);
	assert_string_equal(js_get_str(o, "memory_max"), "640M");
	assert_true(js_get_bool(o, "systemd_scope", false));
	assert_string_equal(js_get_str(o, "stop_action"), "shutdown");
	definition_free(d);
	definition_free(d2);
}

static void test_disk_without_kernel_means_bios(void **state)
{
	static const char *const texts[] = {
		"{\"name\":\"a\",\"memory\":64,\"disks\":[{" DISK "}]}",
		"{\"name\":\"a\",\"memory\":64,\"boot\":{\"firmware\":\"bios\",\"loader\":\"/rom\",\"menu\":true,\"menu_timeout\":9}}",
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(texts); i++) {
		CLEANUP_JS struct json_object *o = NULL, *o2 = NULL;
		struct definition *d = NULL, *d2 = NULL;
		struct err e;

		assert_int_equal(parse_text(texts[i], &d, &e), 0);
		assert_int_equal(d->firmware, VM_FIRMWARE_BIOS);
		o = definition_to_json(d);
		assert_string_equal(js_get_str(js_get(o, "boot"), "firmware"), "bios");
		assert_int_equal(js_get_int(js_get(o, "boot"), "menu_timeout", 0), i ? 9 : 0);
		assert_int_equal(definition_parse(o, NULL, &d2, &e), 0);
		o2 = definition_to_json(d2);
		assert_true(json_object_equal(o, o2));
		definition_free(d);
		definition_free(d2);
	}
}

static void test_formats_match_block_layer(void **state)
{
	(void)state;
	assert_int_equal(DEFINITION_FORMAT_RAW, BLOCK_FORMAT_RAW);
	assert_int_equal(DEFINITION_FORMAT_QCOW2, BLOCK_FORMAT_QCOW2);
}

/* ---- files ---- */

struct folder {
	char path[96], kernel[128], disk[128], fifo[128];
};

static int folder_setup(void **state)
{
	struct folder *f = calloc(1, sizeof(*f));
	int fd;

	snprintf(f->path, sizeof(f->path), "%s/cairn-test-XXXXXX", tmp_folder());
	if (!mkdtemp(f->path))
		return -1;
	snprintf(f->kernel, sizeof(f->kernel), "%s/k", f->path);
	snprintf(f->disk, sizeof(f->disk), "%s/d", f->path);
	snprintf(f->fifo, sizeof(f->fifo), "%s/fifo", f->path);
	fd = open(f->kernel, O_CREAT | O_WRONLY, 0600);
	close(fd);
	fd = open(f->disk, O_CREAT | O_WRONLY, 0600);
	close(fd);
	*state = f;
	return mkfifo(f->fifo, 0600);
}

static int folder_teardown(void **state)
{
	struct folder *f = *state;

	unlink(f->kernel);
	unlink(f->disk);
	unlink(f->fifo);
	rmdir(f->path);
	free(f);
	return 0;
}

static struct definition *with_disk(struct folder *f, const char *disk, const char *more)
{
	char key[512];

	snprintf(key, sizeof(key),
		"\"boot\":{\"kernel\":\"%s\"},\"disks\":[{\"path\":\"%s\",\"format\":\"raw\"%s}]",
		f->kernel, disk, more);
	return accept(key);
}

static void refuse_file(struct folder *f, const char *disk, const char *words)
{
	struct definition *d = with_disk(f, disk, "");
	struct config_files files;
	struct config c;
	struct err e = { 0 };

	assert_int_equal(config_prepare(d, false, &c, &files, &e), 0);
	assert_int_equal(files.n, 2);
	assert_int_equal(config_check_file(&files.list[0], &e), 0);
	assert_true(config_check_file(&files.list[1], &e) < 0);
	if (!strstr(e.msg, words) || strncmp(e.msg, "disks[0].path: ", 15))
		fail_msg("%s", e.msg);
	assert_true(config_open(d, &c, &e) < 0);
	if (!strstr(e.msg, words) || strncmp(e.msg, "disks[0].path: ", 15))
		fail_msg("%s", e.msg);
	assert_int_equal(c.nfds, 0);
	definition_free(d);
}

static void test_unsuitable_files_are_refused(void **state)
{
	struct folder *f = *state;

	refuse_file(f, "/nonexistent/disk", "No such file");
	refuse_file(f, f->path, f->path);
	refuse_file(f, f->fifo, "give a file or a block device");
	refuse_file(f, "/dev/null", "give a file or a block device");
}

static void test_definition_becomes_vm_config(void **state)
{
	struct folder *f = *state;
	struct definition *d = with_disk(f, f->disk, ",\"serial\":\"S\",\"errors\":\"stop\"");
	struct config c;
	struct err e;

	assert_int_equal(config_open(d, &c, &e), 0);
	assert_int_equal(c.nfds, 2);
	assert_int_equal(vm_config_check(&c.vm, c.nfds, &e), 0);
	assert_int_equal(c.vm.ram_bytes, 128 * MIB);
	assert_int_equal(c.vm.initrd_fd, VM_NO_FD);
	assert_int_equal(c.vm.disks[0].error_policy, VM_ERRORS_STOP);
	assert_int_equal(fcntl(c.fds[c.vm.disks[0].fd[0]], F_GETFL) & O_ACCMODE, O_RDWR);
	assert_int_equal(fcntl(c.fds[c.vm.kernel_fd], F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(fcntl(c.fds[c.vm.kernel_fd], F_GETFD), FD_CLOEXEC);
	config_done(&c);
	definition_free(d);
}

/* Any numbers up to 999 give an order: places count from 1. */
static void test_boot_order_becomes_places(void **state)
{
	struct definition *d;
	struct config c;
	struct config_files files;
	struct err e;

	(void)state;
	assert_int_equal(parse_text("{\"name\":\"a\",\"memory\":64,\"disks\":[{\"path\":\"/a\",\"format\":\"raw\",\"boot_order\":999},"
		"{\"path\":\"/b\",\"format\":\"raw\"},{\"path\":\"/c\",\"format\":\"raw\",\"boot_order\":300},"
		"{\"path\":\"/d\",\"format\":\"raw\",\"boot_order\":2}]}", &d, &e), 0);
	assert_int_equal(config_prepare(d, false, &c, &files, &e), 0);
	assert_int_equal(config_choose_boot(d, &(struct boot_choice){ 0 }, &c, &e), 0);
	assert_memory_equal(c.vm.boot_place, ((uint8_t[]){ 3, 0, 2, 1, 0 }), 5);
	assert_int_equal(c.vm.network_place, 0);
	assert_int_equal(c.vm.boot_menu, 0);
	definition_free(d);
}

/* A start's choice comes first; among the devices of that kind, and behind them, the order of the definition stays. */
static void test_choice_of_a_start_comes_first(void **state)
{
	static const struct {
		struct boot_choice choice;
		uint8_t places[5];
	} rows[] = { { { VM_BOOT_ANY, true }, { 0, 2, 0, 1, 0 } }, { { VM_BOOT_CDROM, false }, { 0, 3, 2, 1, 0 } },
		{ { VM_BOOT_HD, false }, { 2, 1, 0, 3, 0 } } };
	struct definition *d;
	struct config_files files;
	struct config c;
	struct err e;

	(void)state;
	assert_int_equal(parse_text("{\"name\":\"a\",\"memory\":64,\"disks\":[{\"path\":\"/a\",\"format\":\"raw\"},"
		"{\"path\":\"/b\",\"format\":\"raw\",\"boot_order\":9},{\"device\":\"cdrom\"},"
		"{\"device\":\"cdrom\",\"boot_order\":4}]}", &d, &e), 0);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(config_prepare(d, false, &c, &files, &e), 0);
		assert_int_equal(config_choose_boot(d, &rows[i].choice, &c, &e), 0);
		assert_memory_equal(c.vm.boot_place, rows[i].places, sizeof(rows[i].places));
		assert_int_equal(c.vm.boot_menu, rows[i].choice.menu);
	}
	assert_int_equal(config_choose_boot(d, &(struct boot_choice){ .first = VM_BOOT_NETWORK }, &c, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "the VM has no interface to boot from"));
	definition_free(d);
	assert_int_equal(parse_text("{\"name\":\"a\",\"memory\":64,\"boot\":{\"firmware\":\"auto\",\"kernel\":\"/k\"},"
		"\"disks\":[{\"path\":\"/a\",\"format\":\"raw\"}]}", &d, &e), 0);
	assert_int_equal(d->firmware, VM_FIRMWARE_NONE);
	assert_int_equal(config_choose_boot(d, &(struct boot_choice){ .menu = true }, &c, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "the VM boots a kernel without a firmware"));
	definition_free(d);
}

/* The network's place is that of the interface that comes first. */
static void test_interface_boots_the_network(void **state)
{
	struct definition *d;
	struct config_files files;
	struct config c;
	struct err e;
	int r;

	(void)state;
	assert_int_equal(parse_text("{\"name\":\"a\",\"memory\":64,\"interfaces\":[{\"type\":\"user\",\"boot_order\":8},"
		"{\"type\":\"user\",\"boot_order\":4}],\"disks\":[{\"path\":\"/a\",\"format\":\"raw\",\"boot_order\":6},"
		"{\"path\":\"/b\",\"format\":\"raw\",\"boot_order\":3}]}", &d, &e), 0);
	assert_int_equal(config_prepare(d, false, &c, &files, &e), 0);
	r = config_choose_boot(d, &(struct boot_choice){ 0 }, &c, &e);
	assert_memory_equal(c.vm.boot_place, ((uint8_t[]){ 3, 1 }), 2);
	assert_int_equal(c.vm.network_place, 2);
	if (r < 0)
		assert_non_null(strstr(e.msg, "install the package ipxe-qemu"));
	else
		assert_int_equal(c.vm.network_rom_fd, 0);
	config_done(&c);
	definition_free(d);
	/* A VM without disks may boot from the network. */
	assert_int_equal(parse_text("{\"name\":\"a\",\"memory\":64,\"interfaces\":[{\"type\":\"user\",\"boot_order\":8}]}", &d, &e), 0);
	assert_int_equal(d->firmware, VM_FIRMWARE_BIOS);
	definition_free(d);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_malformed_json_is_refused),
		cmocka_unit_test(test_deep_nesting_is_refused),
		cmocka_unit_test(test_unknown_and_missing_keys_are_refused),
		cmocka_unit_test(test_name_is_checked),
		cmocka_unit_test(test_memory_is_checked),
		cmocka_unit_test(test_cpus_and_topology_are_checked),
		cmocka_unit_test(test_uuid_is_checked),
		cmocka_unit_test(test_boot_keys_are_checked),
		cmocka_unit_test(test_disk_keys_are_checked),
		cmocka_unit_test(test_too_many_disks_are_refused),
		cmocka_unit_test(test_other_keys_are_checked),
		cmocka_unit_test(test_relative_paths_are_resolved),
		cmocka_unit_test(test_interface_keys_are_checked),
		cmocka_unit_test(test_user_network_keys_are_checked),
		cmocka_unit_test(test_egress_keys_are_checked),
		cmocka_unit_test(test_overlapping_forwards_are_refused),
		cmocka_unit_test(test_cdrom_keys_are_checked),
		cmocka_unit_test(test_canonical_json_round_trips),
		cmocka_unit_test(test_disk_without_kernel_means_bios),
		cmocka_unit_test(test_boot_order_becomes_places),
		cmocka_unit_test(test_choice_of_a_start_comes_first),
		cmocka_unit_test(test_sysinfo_is_encoded_and_checked),
		cmocka_unit_test(test_interface_boots_the_network),
		cmocka_unit_test(test_formats_match_block_layer),
		cmocka_unit_test_setup_teardown(test_unsuitable_files_are_refused, folder_setup, folder_teardown),
		cmocka_unit_test_setup_teardown(test_definition_becomes_vm_config, folder_setup, folder_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
