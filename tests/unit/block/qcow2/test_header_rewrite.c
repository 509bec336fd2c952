/* Changes of the header of an image that nobody has open: a power cut that keeps any of the sectors of a write leaves
 * the old header or the new one, for Cairn and for QEMU. */
#include "fixture_block.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/qcow2/pin.h"
#include "block/qcow2/qcow2.h"

#include <sys/syscall.h>

#define SECTOR 512u
#define HEAD_BYTES_MAX (64u << 10)
#define QEMU_EACH 20 /* qemu-img, which takes longer than all else, looks at every such cut */

/* ---- recording: replacements of libc's functions ---- */

struct event {
	bool sync;
	uint64_t off;
	size_t len;
	uint8_t *data;
};

static struct event events[64];
static size_t nevents;
static bool recording;

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off);
int fdatasync(int fd);

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	if (recording) {
		struct event *ev = &events[nevents++];

		assert_in_range(nevents, 1, ARRAY_SIZE(events));
		assert_true(off % SECTOR == 0 && len % SECTOR == 0 && (uint64_t)off + len <= HEAD_BYTES_MAX);
		*ev = (struct event){ .off = (uint64_t)off, .len = len, .data = malloc(len) };
		memcpy(ev->data, buf, len);
	}
	return syscall(SYS_pwrite64, fd, buf, len, off);
}

int fdatasync(int fd)
{
	if (recording) {
		assert_in_range(nevents, 0, ARRAY_SIZE(events) - 1);
		events[nevents++] = (struct event){ .sync = true };
	}
	return (int)syscall(SYS_fdatasync, fd);
}

static void events_free(void)
{
	for (size_t i = 0; i < nevents; i++)
		free(events[i].data);
	nevents = 0;
}

/* ---- what a header says ---- */

static void extensions_print(const uint8_t *p, const struct qcow2_header *h, FILE *out)
{
	uint64_t backing = load_be64(p + QCOW2_AT_BACKING_OFFSET), end = backing ? backing : 1u << h->cluster_bits;

	for (uint64_t pos = h->header_length; pos + 8 <= end && load_be32(p + pos);) {
		uint32_t type = load_be32(p + pos), n = load_be32(p + pos + 4);

		pos += 8;
		if (type != QCOW2_EXT_UNUSED && type != QCOW2_EXT_FEATURE_NAMES) {
			fprintf(out, "%08x ", type);
			for (uint32_t i = 0; i < n; i++)
				fprintf(out, "%02x", p[pos + i]);
			fputc('\n', out);
		}
		pos += ROUND_UP((uint64_t)n, 8);
	}
}

/* Returns a text with all values and extensions but the names of features, which are optional; the caller frees it. */
static char *header_text(struct fixture *f, const char *name)
{
	uint8_t *p = calloc(1, HEAD_BYTES_MAX);
	struct qcow2_header h;
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	int fd = fixture_file(f, name, O_RDONLY);

	assert_true(pread(fd, p, HEAD_BYTES_MAX, 0) > 0);
	if (qcow2_header_read(fd, name, &h, &f->err) < 0)
		fprintf(out, "ERROR %s", f->err.msg);
	else {
		fprintf(out, "%u %llu %llu/%u %llu/%u %x %x %x %u %u\n%s\n%s\n%s\n", h.version, (unsigned long long)h.size_bytes,
			(unsigned long long)h.l1_offset, h.l1_size, (unsigned long long)h.reftable_offset, h.reftable_clusters,
			(unsigned)h.incompatible, (unsigned)h.compatible, (unsigned)h.autoclear, h.refcount_order,
			h.header_length, h.backing_name, h.backing_format, h.data_file);
		extensions_print(p, &h, out);
	}
	close(fd);
	fclose(out);
	free(p);
	return text;
}

/* Write what qemu-img says about the image with these first bytes to the file `to`. */
static void qemu_says(struct fixture *f, const uint8_t *bytes, const char *to)
{
	int fd = fixture_file(f, "seen", O_RDWR);

	assert_int_equal(syscall(SYS_pwrite64, fd, bytes, HEAD_BYTES_MAX, 0), HEAD_BYTES_MAX);
	close(fd);
	fixture_run(f, "qemu-img info -f qcow2 seen 2>&1 | grep -Ev 'disk size|file length' >%s", to);
}

/* ---- cuts ---- */

struct cuts {
	struct fixture *f;
	uint8_t *durable, *old, *new; /* the image's first bytes: as written so far, before the change, and after it */
	char *before, *after; /* the headers' texts */
	unsigned n, n_new; /* numbers of cuts, and of those that left the new header */
	bool qemu; /* qemu-img has said what it says before and after the change */
};

/* The image is `durable`, and of the write the sectors that `keep` names. */
static void cut_try(struct cuts *c, const struct event *ev, const bool *keep)
{
	uint8_t *p = malloc(HEAD_BYTES_MAX);
	int fd = fixture_file(c->f, "seen", O_RDWR);
	char *is;

	memcpy(p, c->durable, HEAD_BYTES_MAX);
	for (size_t i = 0; i < ev->len / SECTOR; i++)
		if (keep[i])
			memcpy(p + ev->off + i * SECTOR, ev->data + i * SECTOR, SECTOR);
	assert_int_equal(syscall(SYS_pwrite64, fd, p, HEAD_BYTES_MAX, 0), HEAD_BYTES_MAX);
	close(fd);
	is = header_text(c->f, "seen");
	if (strcmp(is, c->before) != 0 && strcmp(is, c->after) != 0)
		fail_msg("a cut leaves neither header:\n%s\nbefore:\n%s\nafter:\n%s", is, c->before, c->after);
	c->n_new += !strcmp(is, c->after);
	free(is);
	if (++c->n % QEMU_EACH == 0) {
		if (!c->qemu) {
			qemu_says(c->f, c->old, "before.qemu");
			qemu_says(c->f, c->new, "after.qemu");
			c->qemu = true;
		}
		qemu_says(c->f, p, "cut.qemu");
		fixture_run(c->f, "cmp -s cut.qemu before.qemu || cmp -s cut.qemu after.qemu || { diff before.qemu cut.qemu; exit 1; }");
	}
	free(p);
}

/* Of the sectors that the write changes: each alone, all but each, and some. */
static void write_cut(struct cuts *c, const struct event *ev)
{
	size_t n = ev->len / SECTOR, changed = 0;
	bool *keep = calloc(n, sizeof(*keep));

	for (size_t i = 0; i < n; i++) {
		if (!memcmp(c->durable + ev->off + i * SECTOR, ev->data + i * SECTOR, SECTOR))
			continue;
		changed++;
		memset(keep, 0, n);
		keep[i] = true;
		cut_try(c, ev, keep);
		memset(keep, 1, n);
		keep[i] = false;
		cut_try(c, ev, keep);
	}
	for (unsigned k = 0; changed > 2 && k < 2; k++) {
		for (size_t i = 0; i < n; i++)
			keep[i] = fixture_random(c->f) % 2;
		cut_try(c, ev, keep);
	}
	free(keep);
}

typedef int change_fn(int fd, struct qcow2_header *h, const void *arg, struct err *e);

/* Change the image `img`, and try cuts at each write. *ret: the header that the change left. Returns the change's
 * result. */
static int change_with_cuts(struct fixture *f, change_fn *change, const void *arg, struct qcow2_header *ret)
{
	struct cuts c = { .f = f, .n = (unsigned)fixture_random(f) % QEMU_EACH, .durable = calloc(1, HEAD_BYTES_MAX),
		.old = calloc(1, HEAD_BYTES_MAX), .new = calloc(1, HEAD_BYTES_MAX), .before = header_text(f, "img") };
	int fd = fixture_file(f, "img", O_RDWR), r;

	events_free();
	fixture_run(f, "cp img seen");
	assert_true(pread(fd, c.old, HEAD_BYTES_MAX, 0) > 0);
	memcpy(c.durable, c.old, HEAD_BYTES_MAX);
	assert_int_equal(qcow2_header_read(fd, "img", ret, &f->err), 0);
	recording = true;
	r = change(fd, ret, arg, &f->err);
	recording = false;
	assert_true(pread(fd, c.new, HEAD_BYTES_MAX, 0) > 0);
	close(fd);
	c.after = header_text(f, "img");
	if (r < 0) {
		assert_int_equal(r, -EINVAL);
		assert_int_equal(nevents, 0);
		assert_string_equal(c.before, c.after);
	}
	for (size_t i = 0; i < nevents; i++) {
		if (events[i].sync)
			continue;
		assert_true(i + 1 < nevents && events[i + 1].sync);
		write_cut(&c, &events[i]);
		memcpy(c.durable + events[i].off, events[i].data, events[i].len);
	}
	assert_true(!nevents || c.n_new);
	events_free();
	free(c.durable);
	free(c.old);
	free(c.new);
	free(c.before);
	free(c.after);
	return r;
}

struct backing {
	const char *name, *format;
};

static int change_backing(int fd, struct qcow2_header *h, const void *arg, struct err *e)
{
	const struct backing *b = arg;
	int r = qcow2_backing_check(fd, h, b->name, b->format, e);

	assert_int_equal(nevents, 0);
	assert_int_equal(qcow2_set_backing(fd, h, b->name, b->format, e), r);
	return r;
}

static int change_data_file(int fd, struct qcow2_header *h, const void *arg, struct err *e)
{
	return qcow2_set_data_file(fd, h, arg, false, e);
}

static int change_version(int fd, struct qcow2_header *h, const void *arg, struct err *e)
{
	return qcow2_set_version(fd, h, *(const uint32_t *)arg, e);
}

static int change_pin_source(int fd, struct qcow2_header *h, const void *arg, struct err *e)
{
	return qcow2_set_pin_source(fd, h, arg, e);
}

/* A name of n bytes. */
static const char *name_of(char *buf, size_t n, char with)
{
	memset(buf, with, n);
	for (size_t i = 200; i < n; i += 200)
		buf[i] = '/';
	buf[n] = 0;
	return buf;
}

static bool has_feature_names(struct fixture *f)
{
	return !fixture_status(f, "head -c 65536 img | grep -qa 'lazy refcounts'");
}

static void name_is_behind_the_extensions(struct fixture *f, const struct qcow2_header *h)
{
	uint64_t pos = h->header_length;

	while (fixture_peek_be(f, "img", pos, 4))
		pos += 8 + ROUND_UP(fixture_peek_be(f, "img", pos + 4, 4), 8);
	if (h->has_backing)
		assert_int_equal(fixture_peek_be(f, "img", QCOW2_AT_BACKING_OFFSET, 8), pos + 8);
}

/* ---- tests ---- */

static void test_cut_leaves_the_old_or_the_new_backing_file(void **state)
{
	/* Together two names of 1,023 bytes fit into 4 KiB, beside the names of features. */
	static const size_t lengths[] = { 5, 300, 600, 1023, 1022, 1, 0, 1023, 0, 40, 900, 899, 7 };
	static const char *const formats[] = { "raw", "qcow2", "raw", "raw" };
	char name[QCOW2_BACKING_NAME_MAX + 1];
	struct qcow2_header h;
	struct fixture f;

	(void)state;
	for (unsigned bits = 12; bits <= 16; bits += 4)
		for (unsigned version = 2; version < 4; version++) {
			fixture_begin(&f, 10 * bits + version);
			fixture_create(&f, "img", &(struct qcow2_create){ .size_bytes = MIB, .cluster_bits = bits,
				.refcount_order = 4, .version = version });
			for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
				struct backing b = { lengths[i] ? name_of(name, lengths[i], (char)('a' + i)) : NULL, formats[i % 4] };

				assert_int_equal(change_with_cuts(&f, change_backing, &b, &h), 0);
				assert_string_equal(h.backing_name, b.name ? b.name : "");
				assert_string_equal(h.backing_format, b.name ? b.format : "");
				name_is_behind_the_extensions(&f, &h);
			}
			assert_int_equal(has_feature_names(&f), version > 2);
			fixture_end(&f);
		}
}

/* The bitmaps' extension lies behind the names of features, in the second sector, and moves. */
static void test_cut_while_extensions_move(void **state)
{
	static const struct backing backings[] = { { "one", "raw" }, { NULL, NULL }, { "two", "qcow2" }, { "three", NULL } };
	struct qcow2_header h;
	struct fixture f;

	(void)state;
	for (unsigned bits = 10; bits <= 16; bits += 2) {
		fixture_begin(&f, 100 + bits);
		fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=%u img 1M && qemu-img bitmap --add img b0 && "
			"qemu-img bitmap --add --disable img b1", 1u << bits);
		for (size_t i = 0; i < ARRAY_SIZE(backings); i++) {
			assert_int_equal(change_with_cuts(&f, change_backing, &backings[i], &h), 0);
			assert_int_equal(h.nb_bitmaps, 2);
			/* Removing the last bitmap uses the extension's place. */
			fixture_run(&f, "cp img other && qemu-img bitmap --remove other b0 && qemu-img info -f qcow2 other | grep -q 'name: b1'");
		}
		assert_int_equal(fixture_peek_be(&f, "img", h.bitmaps_at, 4), 2);
		assert_int_equal(fixture_peek_be(&f, "img", h.bitmaps_at - 8, 4), QCOW2_EXT_BITMAPS);
		fixture_run(&f, "qemu-img rebase -q -u -f qcow2 -b '' img && qemu-img check -q img");
		fixture_end(&f);
	}
}

static void test_cut_while_the_version_changes(void **state)
{
	static const uint32_t versions[] = { 2, 3 };
	char name[QCOW2_BACKING_NAME_MAX + 1];
	struct qcow2_header h;
	struct fixture f;

	(void)state;
	for (unsigned bits = 10; bits <= 16; bits += 2)
		for (size_t n = 1; n <= 401; n += 100) {
			fixture_begin(&f, 200 + bits);
			fixture_run(&f, "truncate -s 1M base && qemu-img create -q -f qcow2 -o cluster_size=%u -b base -F raw img 1M && "
				"qemu-img rebase -u -f qcow2 -F raw -b %s img", 1u << bits, name_of(name, n, 'x'));
			for (unsigned i = 0; i < 4; i++) {
				assert_int_equal(change_with_cuts(&f, change_version, &versions[i % 2], &h), 0);
				assert_int_equal(h.version, versions[i % 2]);
				assert_false(has_feature_names(&f)); /* version 2 takes them away, as in QEMU */
				assert_string_equal(h.backing_name, name);
			}
			fixture_end(&f);
		}
}

static void test_cut_leaves_the_old_or_the_new_data_file(void **state)
{
	static const size_t lengths[] = { 250, 4, 90, 255, 254, 1 };
	char name[QCOW2_BACKING_NAME_MAX + 1];
	struct qcow2_header h;
	struct fixture f;

	(void)state;
	for (unsigned bits = 11; bits <= 16; bits += 5) {
		fixture_begin(&f, 300 + bits);
		fixture_run(&f, "truncate -s 1M base && qemu-img create -q -f qcow2 -o cluster_size=%u,data_file=first -b base -F raw img 1M",
			1u << bits);
		for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
			memset(name, 'a' + (int)i, lengths[i]);
			name[lengths[i]] = 0;
			fixture_run(&f, "cp first %s", name);
			assert_int_equal(change_with_cuts(&f, change_data_file, name, &h), 0);
			assert_string_equal(h.data_file, name);
			assert_string_equal(h.backing_name, "base");
		}
		fixture_end(&f);
	}
}

static void test_cut_leaves_the_old_or_the_new_source_of_a_pin(void **state)
{
	static const size_t lengths[] = { 1, 500, 970, 3, 60 };
	const struct qcow2_pin pin = { .id = { 1, 2, 3 }, .cluster_bits = 16, .disk_bytes = MIB, .l1_offset = 3 << 16, .l1_size = 1 };
	char name[QCOW2_BACKING_NAME_MAX + 1];
	struct qcow2_header h;
	struct fixture f;
	int fd;

	(void)state;
	fixture_begin(&f, 401);
	fd = fixture_file(&f, "img", O_RDWR | O_CREAT);
	assert_int_equal(qcow2_pin_overlays(&fd, 1, &pin, "img", &f.err), 0);
	close(fd);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		name_of(name, lengths[i], (char)('a' + i));
		assert_int_equal(change_with_cuts(&f, change_pin_source, name, &h), 0);
		assert_true(h.has_pin);
		assert_memory_equal(h.backing_name + 11, name, lengths[i]);
	}
	fixture_end(&f);
}

/* Give the image an extension that no program knows. */
static void extension_add(struct fixture *f, uint32_t bytes)
{
	uint64_t pos = 112;

	while (fixture_peek_be(f, "img", pos, 4))
		pos += 8 + ROUND_UP(fixture_peek_be(f, "img", pos + 4, 4), 8);
	fixture_poke_be(f, "img", pos, 4, 0x12345678);
	fixture_poke_be(f, "img", pos + 4, 4, bytes);
	for (uint32_t i = 0; i < bytes; i++)
		fixture_poke_be(f, "img", pos + 8 + i, 1, i % 251 + 1);
	fixture_poke_be(f, "img", pos + 8 + ROUND_UP(bytes, 8), 8, 0);
}

/* Small clusters: each change is done, or refused before a write. */
static void test_cut_in_small_clusters(void **state)
{
	unsigned done = 0, refused = 0;
	char name[QCOW2_BACKING_NAME_MAX + 1];
	struct qcow2_header h;
	struct fixture f;

	(void)state;
	for (unsigned seed = 0; seed < 16; seed++) {
		unsigned bits = 9 + seed % 4;

		fixture_begin(&f, 500 + seed);
		fixture_create(&f, "img", &(struct qcow2_create){ .size_bytes = MIB, .cluster_bits = bits, .refcount_order = 4,
			.version = 3 });
		if (bits > 9 && seed % 3)
			extension_add(&f, 1 + (uint32_t)fixture_random(&f) % ((1u << bits) / 4));
		for (unsigned i = 0; i < 10; i++) {
			uint32_t version = fixture_random(&f) % 2 ? 2 : 3;
			size_t max = MIN(fixture_random(&f) % 3 ? 1u << (bits - 1) : 1u << bits, QCOW2_BACKING_NAME_MAX);
			struct backing b = { name_of(name, 1 + fixture_random(&f) % max, (char)('a' + i)),
				fixture_random(&f) % 2 ? "raw" : NULL };
			int r;

			if (fixture_random(&f) % 5 == 0)
				b.name = NULL;
			if (fixture_random(&f) % 4)
				r = change_with_cuts(&f, change_backing, &b, &h);
			else
				r = change_with_cuts(&f, change_version, &version, &h);
			done += !r;
			refused += r < 0;
		}
		fixture_run(&f, "qemu-img rebase -q -u -f qcow2 -b '' img && qemu-img check -q img");
		fixture_end(&f);
	}
	assert_true(done > 60 && refused > 3);
}

/* Neither of the two names lies in the first sector, nor do both fit behind it. */
static void test_names_that_do_not_fit_together_are_refused(void **state)
{
	struct backing b = { .format = "raw" };
	char name[QCOW2_BACKING_NAME_MAX + 1];
	struct qcow2_header h;
	struct fixture f;

	(void)state;
	fixture_begin(&f, 600);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=1k img 1M");
	b.name = name_of(name, 600, 'a');
	assert_int_equal(change_with_cuts(&f, change_backing, &b, &h), 0);
	b.name = name_of(name, 600, 'b');
	assert_int_equal(change_with_cuts(&f, change_backing, &b, &h), -EINVAL);
	assert_non_null(strstr(f.err.msg, "the present and the new names do not fit into a cluster of 1024 bytes together"));
	b.name = name_of(name, 900, 'b');
	assert_int_equal(change_with_cuts(&f, change_backing, &b, &h), -EINVAL);
	assert_non_null(strstr(f.err.msg, "names do not fit into a cluster of 1024 bytes"));
	b.name = NULL;
	assert_int_equal(change_with_cuts(&f, change_backing, &b, &h), 0);
	b.name = name_of(name, 600, 'b');
	assert_int_equal(change_with_cuts(&f, change_backing, &b, &h), 0);
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cut_leaves_the_old_or_the_new_backing_file),
		cmocka_unit_test(test_cut_while_extensions_move),
		cmocka_unit_test(test_cut_while_the_version_changes),
		cmocka_unit_test(test_cut_leaves_the_old_or_the_new_data_file),
		cmocka_unit_test(test_cut_leaves_the_old_or_the_new_source_of_a_pin),
		cmocka_unit_test(test_cut_in_small_clusters),
		cmocka_unit_test(test_names_that_do_not_fit_together_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
