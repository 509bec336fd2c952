/* kvm_limit: what KVM needs for work that Cairn does on a VM: the limit of rows of tests/bench. The VM has one vCPU, no
 * device, and a guest in real mode.
 * kvm_limit start: Make such a VM, print the byte that its guest sends to a port, and exit.
 * kvm_limit pause: Print the ns of a pause: a running vCPU is kicked out of the guest, its thread parks, is woken, and
 *   the guest runs again. The least of several: others' load is no limit.
 * kvm_limit revert MIB DIRTY: Of a VM with MIB of memory, map DIRTY MiB that were written anew, and run the guest until
 *   its next exit. Print the ns. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RAM_MIB 32
#define PAGE_BYTES 4096
#define CODE_AT 0x1000
#define TSS_AT 0xfeffd000UL /* as Cairn's: VMX needs it for real mode */
#define PAUSES 21

/* mov al, 'A'; out 0x10, al; then jump to itself for ever */
static const uint8_t code[] = { 0xb0, 'A', 0xe6, 0x10, 0xeb, 0xfe };
static const struct kvm_regs first_regs = { .rip = CODE_AT, .rflags = 2 };

struct vm {
	int fd, vcpu;
	uint8_t *ram;
	struct kvm_run *run;
	sem_t parked, go, resumed;
	uint64_t resumed_ns;
};

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "kvm_limit: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* at: an address, to take the place of what is there, or NULL. */
static uint8_t *ram_map(void *at, size_t bytes)
{
	void *ram = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);

	if (ram == MAP_FAILED)
		fail("memory");
	return ram;
}

static void vm_make(struct vm *vm, size_t mib)
{
	struct kvm_userspace_memory_region slot = { .memory_size = mib << 20 };
	struct kvm_sregs sregs;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), run_bytes;

	vm->ram = ram_map(NULL, mib << 20);
	memcpy(vm->ram + CODE_AT, code, sizeof(code));
	slot.userspace_addr = (uintptr_t)vm->ram;
	vm->fd = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0 || ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_AT) < 0 || ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		fail("KVM");
	vm->vcpu = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vm->vcpu < 0 || run_bytes < 0 || ioctl(vm->vcpu, KVM_GET_SREGS, &sregs) < 0)
		fail("a vCPU");
	sregs.cs.base = sregs.cs.selector = 0;
	vm->run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	if (vm->run == MAP_FAILED || ioctl(vm->vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vm->vcpu, KVM_SET_REGS, &first_regs) < 0)
		fail("its registers");
}

/* Run the guest until it sends its byte. Returns the byte. */
static char vm_byte(struct vm *vm)
{
	if (ioctl(vm->vcpu, KVM_RUN, 0) < 0 || vm->run->exit_reason != KVM_EXIT_IO)
		fail("KVM_RUN");
	return ((char *)vm->run)[vm->run->io.data_offset];
}

static void start(void)
{
	struct vm vm;
	char byte;

	vm_make(&vm, RAM_MIB);
	byte = vm_byte(&vm);
	if (write(STDOUT_FILENO, &byte, 1) != 1)
		fail("stdout");
}

static void on_kick(int sig)
{
	(void)sig;
}

static void *vcpu_main(void *opaque)
{
	struct vm *vm = opaque;

	for (;;) {
		if (ioctl(vm->vcpu, KVM_RUN, 0) == 0 || errno != EINTR)
			fail("KVM_RUN");
		sem_post(&vm->parked);
		while (sem_wait(&vm->go) < 0)
			;
		vm->run->immediate_exit = 0;
		if (ioctl(vm->vcpu, KVM_SET_REGS, &first_regs) < 0)
			fail("its registers");
		vm_byte(vm);
		vm->resumed_ns = now_ns();
		sem_post(&vm->resumed);
	}
	return NULL;
}

static void pause_print(void)
{
	const struct timespec between = { .tv_nsec = 500000 };
	struct sigaction kick = { .sa_handler = on_kick };
	uint64_t begin, ns, least = UINT64_MAX;
	pthread_t thread;
	struct vm vm;

	vm_make(&vm, RAM_MIB);
	vm_byte(&vm);
	if (sigaction(SIGUSR1, &kick, NULL) < 0 || sem_init(&vm.parked, 0, 0) < 0 || sem_init(&vm.go, 0, 0) < 0 ||
		sem_init(&vm.resumed, 0, 0) < 0 || pthread_create(&thread, NULL, vcpu_main, &vm))
		fail("a thread");
	for (int i = 0; i < PAUSES; i++) {
		nanosleep(&between, NULL);
		begin = now_ns();
		vm.run->immediate_exit = 1; /* so that a kick before KVM_RUN ends that, too */
		pthread_kill(thread, SIGUSR1);
		sem_wait(&vm.parked);
		sem_post(&vm.go);
		sem_wait(&vm.resumed);
		ns = vm.resumed_ns - begin;
		least = ns < least ? ns : least;
	}
	printf("%llu\n", (unsigned long long)least);
}

static void revert_print(size_t mib, size_t dirty_mib)
{
	uint64_t begin;
	struct vm vm;

	if (!dirty_mib || dirty_mib > mib)
		exit(2);
	vm_make(&vm, mib);
	vm_byte(&vm);
	for (size_t at = 0; at < dirty_mib << 20; at += PAGE_BYTES)
		vm.ram[at] = 1; /* beside the code */
	begin = now_ns();
	ram_map(vm.ram, dirty_mib << 20);
	memcpy(vm.ram + CODE_AT, code, sizeof(code));
	if (ioctl(vm.vcpu, KVM_SET_REGS, &first_regs) < 0)
		fail("its registers");
	vm_byte(&vm);
	printf("%llu\n", (unsigned long long)(now_ns() - begin));
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "start"))
		start();
	else if (argc == 2 && !strcmp(argv[1], "pause"))
		pause_print();
	else if (argc == 4 && !strcmp(argv[1], "revert"))
		revert_print((size_t)atoi(argv[2]), (size_t)atoi(argv[3]));
	else
		return 2;
	return 0;
}
