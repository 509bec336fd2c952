/* fork_floor: what no fork of a VM with a disk can do without, for tests/bench/bench_fork.py. Beside each other, as
 * Cairn does it: a thread writes a pin to an image, which takes three syncs in order; a program is executed in new
 * namespaces until its main() ends, and then a VM of KVM is made with 128 MiB of memory, interrupt controllers, timer
 * and vCPU. Before it all, two files are made and written; afterwards one of them is removed, on stable storage.
 * Prints the ns.
 * fork_floor FOLDER PROGRAM: PROGRAM is run with --version. ahead: without the program, which runs already. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RAM_BYTES (128u << 20)
#define CLUSTER_BYTES 65536
#define PIN_SYNCS 3

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "fork_floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static int file_make(int folder, const char *name)
{
	static const char text[] = "{\"version\": 1}\n";
	int fd = openat(folder, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, text, sizeof(text) - 1) < 0)
		fail(name);
	return fd;
}

static void *pin_main(void *opaque)
{
	static const uint8_t cluster[CLUSTER_BYTES];
	int fd = *(int *)opaque;

	for (int i = 0; i < PIN_SYNCS; i++)
		if (pwrite(fd, cluster, 4096, (off_t)i * CLUSTER_BYTES) != 4096 || fdatasync(fd) < 0)
			fail("a sync");
	return NULL;
}

/* As a root's daemon spawns a VM's process: in namespaces of its own of pids, IPC and UTS. */
static void program_run(const char *program)
{
	struct clone_args args = { .flags = CLONE_VFORK | (geteuid() ? 0 : CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS),
		.exit_signal = SIGCHLD };
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	int status;

	if (pid == 0) {
		int none = open("/dev/null", O_RDWR);

		dup2(none, STDOUT_FILENO);
		execl(program, program, "--version", (char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid((pid_t)pid, &status, 0) < 0 || status)
		fail(program);
}

static void vm_make(void)
{
	void *ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct kvm_userspace_memory_region slot = { .memory_size = RAM_BYTES, .userspace_addr = (uintptr_t)ram };
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (ram == MAP_FAILED || vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 ||
		ioctl(vm, KVM_CREATE_PIT2, &pit) < 0 || ioctl(vm, KVM_CREATE_VCPU, 0) < 0)
		fail("KVM");
}

int main(int argc, char **argv)
{
	double begin;
	pthread_t pin;
	int folder, image;

	if (argc < 3)
		return 2;
	folder = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	image = folder < 0 ? -1 : openat(folder, "image", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (image < 0 || ftruncate(image, PIN_SYNCS * CLUSTER_BYTES) < 0 || fsync(image) < 0)
		fail(argv[1]);
	begin = now_ns();
	file_make(folder, "batch");
	file_make(folder, "definition");
	if (pthread_create(&pin, NULL, pin_main, &image))
		fail("a thread");
	if (strcmp(argv[2], "ahead"))
		program_run(argv[2]);
	vm_make();
	pthread_join(pin, NULL);
	if (unlinkat(folder, "batch", 0) < 0 || fsync(folder) < 0)
		fail("the removal");
	printf("%.0f\n", now_ns() - begin);
	return 0;
}
