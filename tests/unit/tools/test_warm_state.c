/* Saved states of `cairn run`: what makes two runs' keys differ, and which states are not used. */
#include "tools/cairn/warm_key.c" /* a program's files: in no library */

#include "tests/unit/tmp.h"
#include "tools/cairn/verbs/run_warm.c"
#include "tools/cairn/warm_state.c"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#define RAM_BYTES (4 * MIB)
#define FULL_BLOCK 3
#define EMPTY_BLOCK 7

struct fixture {
	char folder[96], kernel[128], agent[128], program[128], states[128];
	const char *root;
	struct config config;
};

static void file_make(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->folder, sizeof(f->folder), "%s/cairn-warm-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(f->folder));
	snprintf(f->kernel, sizeof(f->kernel), "%s/kernel", f->folder);
	snprintf(f->agent, sizeof(f->agent), "%s/cairn-agent", f->folder);
	snprintf(f->program, sizeof(f->program), "%s/cairn-vm", f->folder);
	snprintf(f->states, sizeof(f->states), "%s/cairn/warm", f->folder);
	file_make(f->kernel, "kernel");
	file_make(f->agent, "agent");
	file_make(f->program, "vm");
	chmod(f->agent, 0755);
	setenv("XDG_CACHE_HOME", f->folder, 1);
	setenv("CAIRN_LIBEXEC", f->folder, 1);
	f->config.vm.ram_bytes = RAM_BYTES;
	f->config.vm.vcpus = 1;
	f->config.vm.initrd_fd = VM_NO_FD;
	f->config.fds[0] = open(f->kernel, O_RDONLY | O_CLOEXEC);
	f->config.nfds = 1;
	usleep(2 * TICK_NS / 1000);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	config_done(&f->config);
	snprintf(command, sizeof(command), "rm -r %s", f->folder);
	assert_int_equal(system(command), 0);
	free(f);
	return 0;
}

static struct warm_key *key_of(struct fixture *f)
{
	const char *why;
	struct warm_key *k = warm_key_new(&f->config, f->root, f->program, &why);

	if (!k)
		print_message("%s\n", why);
	assert_non_null(k);
	return k;
}

static bool is_same(const struct warm_key *a, const struct warm_key *b)
{
	return a->len == b->len && !memcmp(a->bytes, b->bytes, a->len) && !strcmp(a->name, b->name);
}

/* ---- keys ---- */

static void test_name_uuid_and_ports_are_each_runs_own(void **state)
{
	struct fixture *f = *state;
	struct warm_key *a, *b;

	f->config.vm.ninterfaces = f->config.vm.interfaces[0].user = f->config.vm.nshares = 1;
	strcpy(f->config.vm.shares[0].tag, "cairn-volume0");
	a = key_of(f);
	strcpy(f->config.vm.name, "other");
	memset(f->config.vm.uuid, 7, 16);
	f->config.vm.log_level = 3;
	f->config.vm.interfaces[0].tap_fd++; /* the published ports */
	f->config.vm.shares[0].fd++;
	b = key_of(f);
	assert_true(is_same(a, b));
	warm_key_free(a);
	warm_key_free(b);
}

#define DIFFERS(change)                                                                                                \
	do {                                                                                                           \
		struct warm_key *a_ = key_of(f), *b_;                                                                  \
		change;                                                                                                \
		b_ = key_of(f);                                                                                        \
		assert_false(is_same(a_, b_));                                                                         \
		warm_key_free(a_);                                                                                     \
		warm_key_free(b_);                                                                                     \
	} while (0)

static void test_size_words_and_files_are_in_the_key(void **state)
{
	struct fixture *f = *state;

	DIFFERS(f->config.vm.ram_bytes += 4096);
	DIFFERS(f->config.vm.vcpus++);
	DIFFERS(strcpy(f->config.vm.cmdline, "quiet"));
	DIFFERS(f->root = "CAIRN_ROOT=1");
	DIFFERS(f->root = "CAIRN_ROOT=1 CAIRN_NET=10.0.2.15/24,10.0.2.2,10.0.2.3");
	DIFFERS(file_make(f->kernel, "KERNEL")); /* of the same length */
	DIFFERS(file_make(f->agent, "Agent"));
	DIFFERS(file_make(f->program, "vM"));
}

static void test_guest_with_what_no_state_has_boots(void **state)
{
	struct fixture *f = *state;
	const char *why;

#define REFUSED(change, back)                                                                                          \
	change;                                                                                                        \
	assert_null(warm_key_new(&f->config, f->root, f->program, &why));                                                 \
	assert_non_null(why);                                                                                          \
	back
	REFUSED(f->config.vm.nshares = 1, f->config.vm.nshares = 0);
	REFUSED((f->config.vm.nshares = 2, strcpy(f->config.vm.shares[0].tag, "cairn-volume0")), f->config.vm.nshares = 0);
	REFUSED(f->config.vm.ninterfaces = 1, f->config.vm.ninterfaces = 0);
	REFUSED(f->config.vm.firmware = 1, f->config.vm.firmware = 0);
	REFUSED(f->config.vm.huge_pages = 1, f->config.vm.huge_pages = 0);
	f->config.vm.disks[0] = (struct vm_disk){ .nlayers = 1, .format = { BLOCK_FORMAT_RAW }, .data_fd = { VM_NO_FD } };
	REFUSED(f->config.vm.ndisks = 1, f->config.vm.disks[0].read_only = 1);
	warm_key_free(key_of(f));
}

static void test_file_that_changes_leaves_no_state(void **state)
{
	struct fixture *f = *state;
	struct warm_key *k = key_of(f);

	assert_true(warm_key_holds(k));
	file_make(f->kernel, "KERNEL");
	assert_false(warm_key_holds(k));
	warm_key_free(k);
	k = key_of(f); /* waits until another change would show */
	assert_true(warm_key_holds(k));
	file_make(f->kernel, "kerneL");
	assert_false(warm_key_holds(k));
	warm_key_free(k);
}

/* ---- states ---- */

static void state_make(const struct warm_key *k)
{
	static uint8_t ram[RAM_BYTES];
	struct vmstate_source src = { .sections = (const uint8_t *)"12345678", .sections_bytes = 8, .ram = ram, .ram_bytes = RAM_BYTES, .ram_fd = -1 };
	struct vmstate_header h = { .realtime_ns = 1 };
	struct vmstate_result result;
	struct vmstate_file file;
	struct warm_file f;
	struct err e;

	assert_int_equal(warm_file_new(&f, &e), 0);
	memset(ram + FULL_BLOCK * VMSTATE_BLOCK_BYTES, 5, VMSTATE_BLOCK_BYTES);
	vmstate_file_init(&file, f.fd);
	assert_int_equal(vmstate_write(&file.store, &h, &src, NULL, &result, &e), 0);
	assert_int_equal(ftruncate(f.fd, (off_t)h.layout.total_bytes), 0);
	assert_int_equal(warm_file_keep(&f, k, &e), 0);
	warm_file_done(&f);
}

static int state_change(struct fixture *f, const struct warm_key *k)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s" SUFFIX, f->states, k->name);
	return open(path, O_RDWR | O_CLOEXEC);
}

static void test_state_is_found_by_its_key(void **state)
{
	struct fixture *f = *state;
	struct warm_key *k = key_of(f);
	struct vmstate_layout l;
	struct err e;
	int fd = warm_state_open(k, &e);

	vmstate_layout_of(RAM_BYTES, &l);
	assert_int_equal(fd, -ENOENT);
	state_make(k);
	state_make(k); /* by a second run */
	fd = warm_state_open(k, &e);
	assert_true(fd >= 0);
	assert_int_equal(warm_state_check(fd, &e), 0);
	assert_int_equal(warm_state_check(fd, &e), 0); /* reads the time only */
	close(fd);
	fd = state_change(f, k);
	assert_int_equal(pwrite_full(fd, "x", 1, (off_t)(l.ram_offset + FULL_BLOCK * VMSTATE_BLOCK_BYTES)), 0);
	close(fd);
	fd = warm_state_open(k, &e);
	assert_true(warm_state_check(fd, &e) < 0);
	close(fd);
	warm_state_drop(k);
	assert_int_equal(warm_state_open(k, &e), -ENOENT);
	warm_key_free(k);
}

static void test_list_of_pages_leaves_the_memory_checked(void **state)
{
	struct fixture *f = *state;
	struct warm_key *k = key_of(f);
	uint32_t list[] = { 4, 9 }, back[FIRST_PAGES_MAX];
	struct stat before, after;
	struct err e;
	int fd;

	state_make(k);
	fd = warm_state_open(k, &e);
	assert_int_equal(warm_state_check(fd, &e), 0);
	assert_int_equal(fstat(fd, &before), 0);
	assert_int_equal(warm_state_put_pages(fd, list, ARRAY_SIZE(list)), 0);
	assert_int_equal(fstat(fd, &after), 0);
	assert_memory_equal(&after.st_mtim, &before.st_mtim, sizeof(after.st_mtim));
	close(fd);
	fd = warm_state_open(k, &e);
	assert_int_equal(first_pages_read(fd, RAM_BYTES / 4096, back), ARRAY_SIZE(list));
	close(fd);
	fd = state_change(f, k); /* a memory that nobody has checked does not count as checked */
	assert_int_equal(futimens(fd, NULL), 0);
	assert_int_equal(warm_state_put_pages(fd, list, 1), 0);
	assert_int_equal(fstat(fd, &after), 0);
	assert_true(after.st_mtim.tv_sec > CHECKED_S);
	close(fd);
	warm_key_free(k);
}

bool option_flag(const struct cli *c, const char *name)
{
	(void)c, (void)name;
	return false;
}

const char *option_value(const struct cli *c, const char *name)
{
	(void)c, (void)name;
	return NULL;
}

void guest_link_close(struct guest_link *l)
{
	(void)l;
}

size_t guest_renewal_put(const struct guest_link *l, uint8_t ret[GUEST_RENEWAL_MAX])
{
	(void)l, (void)ret;
	return 0;
}

/* Be a VM's process: send an event, and answer a request for the list after delay_s. Exit with 0 when the peer is
 * gone. */
static void vm_be(int sock, const uint32_t *list, size_t bytes, unsigned delay_s)
{
	struct pollfd end = { .fd = sock, .events = POLLIN };
	struct vm_reply reply = { 0 };
	struct vm_event ev = { .kind = VM_EVENT_AGENT };
	struct channel_msg m;
	void *buf = malloc(CHANNEL_BODY_MAX);

	channel_send(sock, VM_MSG_VERSION, VM_MSG_EVENT, 0, &ev, sizeof(ev), NULL, 0);
	if (channel_recv(sock, VM_MSG_VERSION, vm_msg_to_vm, VM_MSG_TYPE_COUNT, buf, &m) != 1 || m.head.type != VM_MSG_FIRST_PAGES || m.nfds != 1 ||
		pwrite(m.fds[0], list, bytes, 0) != (ssize_t)bytes)
		_exit(1);
	sleep(delay_s);
	channel_send(sock, VM_MSG_VERSION, VM_MSG_REPLY, m.head.seq, &reply, sizeof(reply), NULL, 0);
	_exit(poll(&end, 1, 60000) == 1 && recv(sock, buf, 1, 0) == 0 ? 0 : 2);
}

/* Ask a process that answers after delay_s. Returns how many pages the state then has in *ret. */
static int list_ask(struct fixture *f, uint64_t deadline_ns, unsigned delay_s, const uint32_t *list, size_t bytes, uint32_t *ret)
{
	struct run_warm w = RUN_WARM_NONE;
	int pair[2], status, n;
	struct err e;
	pid_t pid;

	w.key = key_of(f);
	state_make(w.key);
	w.state = warm_state_open(w.key, &e);
	w.lists = true;
	w.deadline_ns = deadline_ns;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	pid = fork();
	if (!pid) {
		close(pair[0]);
		vm_be(pair[1], list, bytes, delay_s);
	}
	close(pair[1]);
	w.channel = pair[0];
	w.vm_end = (int)syscall(SYS_pidfd_open, pid, 0);
	run_warm_list(&w);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	n = (int)first_pages_read(w.state, RAM_BYTES / 4096, ret);
	close(w.vm_end);
	run_warm_done(&w);
	return n;
}

static void test_list_of_the_vms_process_is_kept_and_its_channel_closed(void **state)
{
	const uint32_t list[] = { 4, 9, 100 };
	uint32_t back[FIRST_PAGES_MAX];

	assert_int_equal(list_ask(*state, UINT64_MAX, 0, list, sizeof(list), back), ARRAY_SIZE(list));
	assert_memory_equal(back, list, sizeof(list));
}

static void test_list_is_not_awaited_beyond_the_end_of_the_run(void **state)
{
	const uint32_t list[] = { 4, 9, 100 };
	uint32_t back[FIRST_PAGES_MAX];

	assert_true(list_ask(*state, 1, 1, list, sizeof(list), back) <= 0);
}

static void test_states_of_a_file_are_found(void **state)
{
	struct fixture *f = *state;
	struct warm_state_info *all;
	struct warm_key *k;
	struct stat kernel, other;

	assert_int_equal(warm_states_list(&all), 0);
	k = key_of(f);
	state_make(k);
	assert_int_equal(warm_states_list(&all), 1);
	assert_true(all[0].bytes >= VMSTATE_BLOCK_BYTES && all[0].used_s > 1000000000);
	assert_int_equal(stat(f->kernel, &kernel) | stat(f->folder, &other), 0);
	assert_true(warm_state_has_file(all[0].name, &kernel));
	assert_false(warm_state_has_file(all[0].name, &other));
	assert_false(warm_state_has_file("missing", &kernel));
	warm_state_remove(all[0].name);
	free(all);
	assert_int_equal(warm_states_list(&all), 0);
	free(all);
	warm_key_free(k);
}

static void test_damaged_state_is_refused_and_removed(void **state)
{
	struct fixture *f = *state;
	struct warm_key *k = key_of(f);
	struct vmstate_layout l;
	struct err e;

	vmstate_layout_of(RAM_BYTES, &l);
#define DAMAGED(change)                                                                                                \
	do {                                                                                                           \
		int fd_;                                                                                               \
		state_make(k);                                                                                      \
		fd_ = state_change(f, k);                                                                              \
		assert_int_equal(change, 0);                                                                           \
		close(fd_);                                                                                            \
		assert_true(warm_state_open(k, &e) < 0);                                                               \
		assert_int_equal(warm_state_open(k, &e), -ENOENT);                                                     \
	} while (0)
	DAMAGED(ftruncate(fd_, (off_t)l.total_bytes - 1));
	DAMAGED(ftruncate(fd_, (off_t)l.total_bytes + 4096));
	DAMAGED(ftruncate(fd_, 0));
	DAMAGED(pwrite_full(fd_, "x", 1, 100));
	DAMAGED(pwrite_full(fd_, "x", 1, KEY_OFFSET));
	DAMAGED(pwrite_full(fd_, "\xff\xff\xff\xff", 4, KEY_OFFSET + 8));
	DAMAGED(pwrite_full(fd_, "x", 1, (off_t)(KEY_OFFSET + KEY_HEADER_BYTES + k->len - 1)));
	DAMAGED(fchmod(fd_, 0620));
	warm_key_free(k);
}

static void memory_damage(struct fixture *f, const struct warm_key *k, off_t at)
{
	struct err e;
	int fd;

	state_make(k);
	fd = state_change(f, k);
	assert_int_equal(pwrite_full(fd, "x", 1, at), 0);
	close(fd);
	fd = warm_state_open(k, &e);
	assert_true(fd >= 0);
	assert_true(warm_state_check(fd, &e) < 0);
	close(fd);
	warm_state_drop(k);
}

static void test_damaged_memory_is_found(void **state)
{
	struct fixture *f = *state;
	struct warm_key *k = key_of(f);
	struct vmstate_layout l;
	struct err e;
	int fd;

	vmstate_layout_of(RAM_BYTES, &l);
	memory_damage(f, k, (off_t)(l.ram_offset + (FULL_BLOCK + 1) * VMSTATE_BLOCK_BYTES - 1));
	memory_damage(f, k, (off_t)(l.ram_offset + EMPTY_BLOCK * VMSTATE_BLOCK_BYTES)); /* a block of zeros */
	memory_damage(f, k, (off_t)(l.ram_offset + RAM_BYTES - 1));
	memory_damage(f, k, (off_t)(l.crc_offset + 4 * FULL_BLOCK));
	memory_damage(f, k, (off_t)(l.crc_offset + 4 * EMPTY_BLOCK));
	state_make(k);
	fd = state_change(f, k);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(l.ram_offset + FULL_BLOCK * VMSTATE_BLOCK_BYTES),
		VMSTATE_BLOCK_BYTES), 0);
	assert_true(warm_state_check(fd, &e) < 0);
	close(fd);
	warm_key_free(k);
}

static size_t files_count(const struct fixture *f)
{
	DIR *d = opendir(f->states);
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

/* On a file system without O_TMPFILE. */
static void test_named_file_ends_with_its_maker(void **state)
{
	struct fixture *f = *state;
	struct warm_key *k = key_of(f);
	struct warm_file live, file;
	struct err e;
	int folder;

	state_make(k);
	warm_state_drop(k);
	folder = open(f->states, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(named_file_open(&live, folder), 0);
	assert_int_equal(files_count(f), 1);
	assert_int_equal(warm_file_new(&file, &e), 0); /* by another maker */
	assert_int_equal(files_count(f), 1);
	warm_file_done(&file);
	close(live.fd); /* as if it was killed */
	assert_int_equal(warm_file_new(&file, &e), 0);
	assert_int_equal(files_count(f), 0);
	warm_file_done(&file);

	assert_int_equal(named_file_open(&live, folder), 0);
	assert_int_equal(ftruncate(live.fd, 4096), 0);
	assert_int_equal(warm_file_keep(&live, k, &e), 0);
	warm_file_done(&live);
	assert_int_equal(files_count(f), 1);
	assert_true(warm_state_open(k, &e) < 0); /* no state is in it */
	close(folder);
	warm_key_free(k);
}

static void test_folder_of_others_is_not_used(void **state)
{
	struct fixture *f = *state;
	struct warm_key *k = key_of(f);
	struct warm_file file;
	struct err e;

	state_make(k);
	chmod(f->states, 0777);
	assert_int_equal(warm_state_open(k, &e), -EPERM);
	assert_int_equal(warm_file_new(&file, &e), -EPERM);
	warm_file_done(&file);
	chmod(f->states, 0700);
	warm_key_free(k);
}

static void test_states_used_last_are_kept(void **state)
{
	struct fixture *f = *state;
	struct warm_key *first = NULL, *second = NULL;
	char folder[160];
	struct err e;
	int fd;

	/* Nobody can remove a folder as a state, and it does not keep the others from being removed. */
	snprintf(folder, sizeof(folder), "%s/old" SUFFIX, f->states);
	assert_int_equal(mkdir_all(folder, 0700, &e), 0);
	chmod(f->states, 0700);
	for (unsigned i = 0; i < WARM_STATES_MAX + 1; i++) {
		struct warm_key *k;

		f->config.vm.vcpus = i + 1;
		k = key_of(f);
		if (i == WARM_STATES_MAX) { /* the first one is used again, so the second one goes */
			fd = warm_state_open(first, &e);
			assert_true(fd >= 0);
			close(fd);
		}
		state_make(k);
		if (!first)
			first = k;
		else if (!second)
			second = k;
		else
			warm_key_free(k);
		usleep(2 * TICK_NS / 1000);
	}
	fd = warm_state_open(first, &e);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(warm_state_open(second, &e), -ENOENT);
	warm_key_free(first);
	warm_key_free(second);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_name_uuid_and_ports_are_each_runs_own),
		TEST(test_size_words_and_files_are_in_the_key),
		TEST(test_guest_with_what_no_state_has_boots),
		TEST(test_file_that_changes_leaves_no_state),
		TEST(test_state_is_found_by_its_key),
		TEST(test_list_of_pages_leaves_the_memory_checked),
		TEST(test_list_of_the_vms_process_is_kept_and_its_channel_closed),
		TEST(test_list_is_not_awaited_beyond_the_end_of_the_run),
		TEST(test_states_of_a_file_are_found),
		TEST(test_damaged_state_is_refused_and_removed),
		TEST(test_damaged_memory_is_found),
		TEST(test_named_file_ends_with_its_maker),
		TEST(test_folder_of_others_is_not_used),
		TEST(test_states_used_last_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
