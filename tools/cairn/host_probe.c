#include "tools/cairn/host_probe.h"
#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/kvm_host.h"
#include "base/loop.h"
#include "base/memory_pressure.h"
#include "base/util.h"
#include "snapshot/uffd_open.h"
#include "tools/cairn/user.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define BIOS_PATH "/usr/share/seabios/bios-256k.bin" /* as DEFINITION_BIOS_PATH */
#define UEFI_PATH "/usr/share/OVMF/OVMF_CODE_4M.fd" /* as DEFINITION_UEFI_PATH, and DEFINITION_NVRAM_PATH */
#define NVRAM_PATH "/usr/share/OVMF/OVMF_VARS_4M.fd"
#define NETWORK_ROM_PATH "/usr/lib/ipxe/qemu/pxe-virtio.rom" /* as DEFINITION_NETWORK_ROM_PATH */

/* ---- helpers of the checks ---- */

__attribute__((format(printf, 3, 4))) static void found(struct host_check *c, enum host_status status, const char *fmt, ...)
{
	int saved = errno; /* the caller chooses the remedy by errno */
	va_list ap;

	c->status = status;
	va_start(ap, fmt);
	vsnprintf(c->found, sizeof(c->found), fmt, ap);
	va_end(ap);
	errno = saved;
}

__attribute__((format(printf, 2, 3))) static void remedy(struct host_check *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->remedy, sizeof(c->remedy), fmt, ap);
	va_end(ap);
}

/* Read the first word of a file in /proc or /sys. Returns "" if there is no such file. */
static const char *word_read(const char *path, char buf[32])
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, 31);

	buf[MAX(n, 0)] = 0;
	buf[strcspn(buf, " \n")] = 0;
	return buf;
}

static long number_read(const char *path)
{
	char buf[32];

	return strtol(word_read(path, buf), NULL, 10);
}

/* Get the name of the file's group, if it may read and write the file and is not root's. Returns buf; NULL:
 * otherwise. */
static const char *group_of(const char *path, char buf[32])
{
	struct stat st;

	if (stat(path, &st) < 0 || (st.st_mode & 0060) != 0060 || !st.st_gid)
		return NULL;
	user_name(true, st.st_gid, buf, 32);
	return buf;
}

/* ---- the checks ---- */

static void kvm_open_failed(struct host_check *c, int error)
{
	char group[32];

	found(c, HOST_MISSING, "/dev/kvm: %s", strerror(error));
	if (error == EACCES || error == EPERM)
		remedy(c, "join the group %s (adduser USER %s), then log in again",
			group_of("/dev/kvm", group) ? group : "kvm", group_of("/dev/kvm", group) ? group : "kvm");
	else
		remedy(c, "%s", kvm_host_remedy(false));
}

static void kvm_probe(struct host_check *c)
{
	CLEANUP_CLOSE int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CLEANUP_CLOSE int vm = -1;
	int version;

	if (fd < 0) {
		kvm_open_failed(c, errno);
		return;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	vm = version == KVM_API_VERSION ? ioctl(fd, KVM_CREATE_VM, 0) : -1;
	if (vm >= 0) {
		found(c, HOST_OK, "/dev/kvm, API version %d", version);
	} else if (version != KVM_API_VERSION) {
		found(c, HOST_MISSING, "/dev/kvm has API version %d, not %d", version, KVM_API_VERSION);
		remedy(c, "use a kernel with KVM's stable API");
	} else {
		found(c, HOST_MISSING, "KVM creates no VM: %s", strerror(errno));
		remedy(c, errno == EBUSY ? "stop the other hypervisor, which uses the CPU's virtualization"
			: "see dmesg; is the host, or a cgroup, out of memory?");
	}
}

static bool is_off(const char *parameter)
{
	char word[32];

	word_read(parameter, word);
	return word[0] == 'N' || word[0] == '0';
}

#define EPT "/sys/module/kvm_intel/parameters/ept"
#define NPT "/sys/module/kvm_amd/parameters/npt"

/* Check for nested paging. If the CPU shows neither VMX nor SVM but there is a KVM, this KVM emulates kernel mode. */
static void paging_probe(struct host_check *c)
{
	const char *kind = kvm_host_extension();
	bool vmx = kind && !strcmp(kind, "vmx");
	const char *parameter = vmx ? "kvm_intel ept" : "kvm_amd npt";

	if (!kind) {
		bool pvm = !access("/dev/kvm", F_OK);

		found(c, pvm ? HOST_SLOW : HOST_MISSING, "the CPU shows neither VMX nor SVM%s",
			pvm ? "; KVM emulates kernel mode (kvm-pvm)" : "");
		remedy(c, "switch virtualization on in the firmware or, inside a VM, nested virtualization on the host outside");
		return;
	}
	if (!is_off(vmx ? EPT : NPT)) {
		found(c, HOST_OK, vmx ? "Intel VMX with nested paging (EPT)" : "AMD SVM with nested paging (NPT)");
		return;
	}
	found(c, HOST_SLOW, "nested paging is off (%s=0)", parameter);
	remedy(c, "load the module with %s=1", parameter);
}

static void nested_guests_probe(struct host_check *c)
{
	const char *kind = kvm_host_extension();
	const char *module = kind && !strcmp(kind, "vmx") ? "kvm_intel" : "kvm_amd";
	char parameter[64];

	snprintf(parameter, sizeof(parameter), "/sys/module/%s/parameters/nested", module);
	if (!kind) {
		found(c, HOST_MISSING, "the CPU shows neither VMX nor SVM");
		remedy(c, "see the check nested-paging");
	} else if (is_off(parameter)) {
		found(c, HOST_MISSING, "%s nested=0", module);
		remedy(c, "load the module with %s nested=1", module);
	} else {
		found(c, HOST_OK, "KVM offers %s to guests", kind);
	}
}

/* Returns the fd; -errno with a sentence. */
static int kvm_open(struct err *e)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), r = -errno;
	struct host_check c;

	if (fd >= 0)
		return fd;
	kvm_open_failed(&c, -r);
	return err_set(e, r, r == -EACCES || r == -EPERM ? ERR_PERMISSION : ERR_HOST, "%s: %s", c.found, c.remedy);
}

int host_kvm_check(struct err *e)
{
	CLEANUP_CLOSE int fd = kvm_open(e);

	return MIN(fd, 0);
}

int host_cpu_read(struct host_cpu *ret, struct err *e)
{
	CLEANUP_CLOSE int fd = kvm_open(e);
	struct kvm_cpuid_guest guest;
	int r;

	*ret = (struct host_cpu){ 0 };
	if (fd < 0)
		return fd;
	r = kvm_cpuid_read(fd, &ret->supported);
	if (r < 0)
		return err_set(e, r, ERR_HOST, "KVM_GET_SUPPORTED_CPUID: %s", strerror(-r));
	r = kvm_cpuid_guest_run(&guest, fd, ret->supported);
	kvm_cpuid_guest_close(&guest);
	ret->is_virtual = r > 0;
	if (r >= 0)
		return 0;
	host_cpu_done(ret);
	return err_set(e, r, ERR_HOST, "cannot run CPUID in a guest: %s", strerror(-r));
}

void host_cpu_done(struct host_cpu *h)
{
	free(h->supported);
	h->supported = NULL;
}

bool host_emulates_kernel_mode(void)
{
	struct host_cpu h;
	struct err e;

	if (access("/dev/kvm", F_OK) < 0)
		return false;
	if (!kvm_host_extension())
		return true;
	if (!access("/sys/module/kvm_intel", F_OK) || !access("/sys/module/kvm_amd", F_OK) || host_cpu_read(&h, &e) < 0)
		return false;
	host_cpu_done(&h);
	return !h.is_virtual;
}

static void cpuid_probe(struct host_check *c)
{
	struct host_cpu h;
	struct err e;

	if (host_cpu_read(&h, &e) < 0) {
		found(c, HOST_MISSING, "%.190s", e.msg);
		remedy(c, "see the check kvm");
		return;
	}
	host_cpu_done(&h);
	if (h.is_virtual) {
		found(c, HOST_OK, "KVM virtualises CPUID; `cairn cpu-models` lists the models");
		return;
	}
	found(c, HOST_MISSING, "KVM does not virtualise CPUID, so a guest sees the host's processor");
	remedy(c, "leave \"cpu\" at \"host\", or use a host with VMX or SVM");
}

#define UDEV_RULE "60-cairn.rules"

static void uffd_remedy(struct host_check *c, const struct uffd *u)
{
	const char *sysctl = u->sysctl_denies ? "sysctl vm.unprivileged_userfaultfd=1" : NULL;
	char group[32];

	if (u->refused)
		remedy(c, "unset CAIRN_USERFAULTFD");
	else if (u->device_error == -EACCES && group_of(UFFD_DEVICE, group))
		remedy(c, "join the group %s (adduser USER %s), then log in again", group, group);
	else if (u->device_error == -EACCES)
		remedy(c, "as root: install Cairn's udev rule " UDEV_RULE " (make install does), run udevadm control --reload and "
			"udevadm trigger " UFFD_DEVICE "; members of the group kvm may then open the device%s%s",
			sysctl ? ". For all users instead: " : "", sysctl ? sysctl : "");
	else if (sysctl)
		remedy(c, "as root: %s (a file in /etc/sysctl.d keeps it); Linux 6.1 has " UFFD_DEVICE " instead", sysctl);
	else if (u->call_error == -EPERM)
		remedy(c, "let the container have " UFFD_DEVICE ", or the system call userfaultfd in its seccomp profile");
	else
		remedy(c, "use Linux 5.19 or newer with CONFIG_USERFAULTFD");
}

static void uffd_probe(struct host_check *c)
{
	struct uffd u;

	uffd_open(&u);
	uffd_close(&u);
	if (u.can_protect) {
		found(c, HOST_OK, "opened by %s", uffd_source_name(u.source));
		return;
	}
	c->status = HOST_SLOW;
	uffd_reason(&u, c->found);
	uffd_remedy(c, &u);
}

static void io_uring_probe(struct host_check *c)
{
	long disabled = number_read("/proc/sys/kernel/io_uring_disabled");
	struct loop *l = NULL;
	struct err e;
	int r;

	setenv("CAIRN_LOOP", "io_uring", 1); /* otherwise a loop falls back on epoll */
	r = loop_new(8, &l, &e);
	unsetenv("CAIRN_LOOP");
	if (!r) {
		loop_free(l);
		found(c, HOST_OK, "the kernel creates rings");
		return;
	}
	found(c, HOST_MISSING, "%.190s", e.msg);
	if (loop_new(8, &l, &e) == 0) {
		loop_free(l);
		found(c, HOST_SLOW, "the kernel refuses io_uring (%s), so programs use epoll", strerror(-r));
	}
	if (r == -EPERM && disabled)
		remedy(c, "as root: sysctl kernel.io_uring_disabled=0%s",
			disabled == 1 ? ", or join the group whose number is in kernel.io_uring_group" : "");
	else if (r == -ENOMEM)
		remedy(c, "raise the limit of locked memory (ulimit -l)");
	else
		remedy(c, "use Linux 5.10 or newer; in a container, allow the system calls io_uring_setup, io_uring_enter and "
			"io_uring_register in its seccomp profile");
}

static void seccomp_probe(struct host_check *c)
{
	uint32_t action = SECCOMP_RET_KILL_PROCESS;

	if (!syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action)) {
		found(c, HOST_OK, "the kernel has filters");
		return;
	}
	found(c, HOST_MISSING, "system call seccomp: %s", strerror(errno));
	remedy(c, "use a kernel with CONFIG_SECCOMP_FILTER");
}

static void landlock_probe(struct host_check *c)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	if (abi >= 0) {
		found(c, HOST_OK, "ABI %ld", abi);
		return;
	}
	found(c, HOST_MISSING, "%s", strerror(errno));
	remedy(c, errno == EOPNOTSUPP ? "add landlock to the list lsm= of the kernel's command line"
		: "use Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK; until then, seccomp alone confines these programs");
}

static void bios_probe(struct host_check *c)
{
	struct stat st;

	if (stat(BIOS_PATH, &st) == 0) {
		found(c, HOST_OK, "%s", BIOS_PATH);
		return;
	}
	found(c, HOST_MISSING, "%s: %s", BIOS_PATH, strerror(errno));
	remedy(c, "apt install seabios, or name another BIOS in boot.loader");
}

static void uefi_probe(struct host_check *c)
{
	const char *path = UEFI_PATH;
	struct stat st;

	if (stat(path, &st) == 0 && stat(path = NVRAM_PATH, &st) == 0) {
		found(c, HOST_OK, "%s", UEFI_PATH);
		return;
	}
	found(c, HOST_MISSING, "%s: %s", path, strerror(errno));
	remedy(c, "apt install ovmf, or name a UEFI in boot.loader and boot.nvram_template");
}

static void network_boot_probe(struct host_check *c)
{
	struct stat st;

	if (stat(NETWORK_ROM_PATH, &st) == 0) {
		found(c, HOST_OK, "%s", NETWORK_ROM_PATH);
		return;
	}
	found(c, HOST_MISSING, "%s: %s", NETWORK_ROM_PATH, strerror(errno));
	remedy(c, "apt install ipxe-qemu");
}

static void huge_pages_probe(struct host_check *c)
{
	long total = number_read("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
	long unused = number_read("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");

	found(c, total ? HOST_OK : HOST_MISSING, "%ld of %ld pages of 2 MiB are free", unused, total);
	if (!total)
		remedy(c, "as root, if a VM shall have them: sysctl vm.nr_hugepages=N, with N half of its memory in MiB");
}

/* Let a child try something. Returns 0, or the errno of the failed step. */
static int child_try(int (*step)(void))
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return errno;
	if (!pid)
		_exit(step());
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EPERM; /* a seccomp filter may kill */
}

#define THP "/sys/kernel/mm/transparent_hugepage"

/* deny: memory files have no huge pages, regardless of their mount's option. never: only those of a mount with the
 * option have them. */
static bool huge_pages_chosen(const char *word)
{
	CLEANUP_CLOSE int fd = open(THP "/shmem_enabled", O_RDONLY | O_CLOEXEC);
	char choices[128];
	ssize_t n = fd < 0 ? 0 : read(fd, choices, sizeof(choices) - 1);

	choices[MAX(n, 0)] = 0;
	return strstr(choices, word);
}

/* In a child: make the file system of a VM's memory, as cairn-vm does (vmm/kvm/host_files.c). Returns 0 or errno. */
static int huge_file_system_make(void)
{
	int fs;

	if ((geteuid() && unshare(CLONE_NEWUSER) < 0) || unshare(CLONE_NEWNS) < 0)
		return errno;
	fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "huge", "advise", 0) < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return errno;
	return 0;
}

static void transparent_huge_pages_probe(struct host_check *c)
{
	const char *kind = kvm_host_extension();
	bool nested = kind && !is_off(!strcmp(kind, "vmx") ? EPT : NPT);
	struct utsname u;
	int error;

	if (!nested) {
		found(c, HOST_MISSING, "not used without nested paging");
		remedy(c, "see the check nested-paging");
	} else if (uname(&u) < 0 || !kvm_host_huge_pages_safe(u.release)) {
		found(c, HOST_MISSING, "not used before Linux 6.6, whose predecessors lose memory of VMs in huge pages");
		remedy(c, "use Linux 6.6 or later");
	} else if (access(THP, F_OK) < 0) {
		found(c, HOST_MISSING, "this kernel has none");
		remedy(c, "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE");
	} else if (huge_pages_chosen("[deny]")) {
		found(c, HOST_MISSING, "turned off for shared memory (shmem_enabled is deny)");
		remedy(c, "as root: echo never > " THP "/shmem_enabled");
	} else if (huge_pages_chosen("[never]") && (error = child_try(huge_file_system_make)) != 0) {
		found(c, HOST_MISSING, "VMs of this user cannot make a tmpfs with huge pages: %s", strerror(error));
		remedy(c, "see the checks user-namespaces and namespaces, or as root: echo advise > " THP "/shmem_enabled");
	} else {
		found(c, HOST_OK, "for guests with 128 MiB of memory and more");
	}
}

static void tun_probe(struct host_check *c)
{
	CLEANUP_CLOSE int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd >= 0) {
		found(c, HOST_OK, "/dev/net/tun");
		return;
	}
	found(c, HOST_MISSING, "/dev/net/tun: %s", strerror(errno));
	remedy(c, errno == EACCES || errno == EPERM ? "as root: chmod 666 /dev/net/tun, as udev sets it"
		: "as root: modprobe tun; interfaces of type user need no tap");
}

/* Return whether a line of the file contains the text. */
static bool file_has(const char *path, const char *text)
{
	FILE *f = fopen(path, "re");
	char line[4096];
	bool has = false;

	while (f && !has && fgets(line, sizeof(line), f))
		has = strstr(line, text);
	if (f)
		fclose(f);
	return has;
}

static void vhost_probe(struct host_check *c)
{
	if (!access("/dev/vhost-net", F_OK)) {
		found(c, HOST_OK, "/dev/vhost-net");
		return;
	}
	found(c, HOST_MISSING, "/dev/vhost-net: %s", strerror(errno));
	remedy(c, "as root: modprobe vhost_net; without it, a VM with \"vhost\" does not start");
}

static bool has_capability(int capability)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return !syscall(SYS_capget, &head, caps) && caps[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability);
}

static void networks_probe(struct host_check *c)
{
	bool links = has_capability(CAP_NET_ADMIN), spaces = has_capability(CAP_SYS_ADMIN);

	if (links && spaces) {
		found(c, HOST_OK, "root's daemon can make them");
		return;
	}
	found(c, HOST_MISSING, "%s lacks %s%s%s", geteuid() ? "this user" : "this root", links ? "" : "CAP_NET_ADMIN", links || spaces ? "" : " and ",
		spaces ? "" : "CAP_SYS_ADMIN");
	remedy(c, geteuid() ? "use root's daemon; an interface of type user needs no network"
		: "give them to the container (docker run --cap-add NET_ADMIN --cap-add SYS_ADMIN); an interface of type user needs no network");
}

/* The kernel loads the module by itself when the first network needs it. */
static void macvtap_probe(struct host_check *c)
{
	struct utsname u;
	char path[PATH_MAX];

	if (file_has("/proc/devices", " macvtap\n")) {
		found(c, HOST_OK, "in the kernel");
		return;
	}
	uname(&u);
	snprintf(path, sizeof(path), "/lib/modules/%s/modules.dep", u.release);
	if (file_has(path, "/macvtap.ko")) {
		found(c, HOST_OK, "a module of the kernel");
		return;
	}
	found(c, HOST_MISSING, "the kernel has no macvtap");
	remedy(c, "use networks of mode nat, or of an existing bridge; or a kernel with CONFIG_MACVTAP");
}

/* Tells only whether such rules exist. The daemon finds out which network's packets they drop. */
static void forwarding_probe(struct host_check *c)
{
	static const char ipv4[] = "/proc/net/ip_tables_names", ipv6[] = "/proc/net/ip6_tables_names";

	if (file_has(ipv4, "filter\n") || file_has(ipv6, "filter\n")) {
		found(c, HOST_UNSURE, "iptables-legacy has a filter table, as with some Dockers, which may drop their packets");
		remedy(c, "look at: cairn net-info NETWORK; it warns if that is so, with the commands against it");
	} else if (!access(ipv4, F_OK) && access(ipv4, R_OK) < 0) {
		found(c, HOST_UNSURE, "only root sees whether iptables-legacy has rules, which may drop their packets");
		remedy(c, "as root: cairn doctor");
	} else {
		found(c, HOST_OK, "iptables-legacy has no rules");
	}
}

static void memory_pressure_probe(struct host_check *c)
{
	CLEANUP_CLOSE int fd = memory_pressure_open(AT_FDCWD, MEMORY_PRESSURE_HOST);

	if (fd >= 0) {
		found(c, HOST_OK, "the kernel reports it to this user");
		return;
	}
	found(c, HOST_MISSING, MEMORY_PRESSURE_HOST ": %s", strerror(-fd));
	remedy(c, fd == -ENOENT || fd == -EOPNOTSUPP ? "use a kernel with CONFIG_PSI, with psi=1 on its command line"
		: "run the daemon as root, or use Linux 6.5 or newer, which reports it to each user");
}

/* ---- user namespaces ---- */

/* Use the privileges in the user namespace, too: AppArmor may allow the namespace and deny those. */
static int user_namespace_enter(void)
{
	return unshare(CLONE_NEWUSER) < 0 || unshare(CLONE_NEWNS) < 0 ? errno : 0;
}

static int user_namespace_try(void)
{
	return child_try(user_namespace_enter);
}

static void user_namespaces_probe(struct host_check *c)
{
	char word[32];
	int error = user_namespace_try();

	if (!error) {
		found(c, HOST_OK, "this user may create them");
		return;
	}
	found(c, HOST_MISSING, "this user may not create them: %s", strerror(error));
	if (error == EINVAL)
		remedy(c, "use a kernel with CONFIG_USER_NS");
	else if (error == ENOSPC)
		remedy(c, "as root: raise the sysctl user.max_user_namespaces, which is %s",
			word_read("/proc/sys/user/max_user_namespaces", word));
	else if (!strcmp(word_read("/proc/sys/kernel/unprivileged_userns_clone", word), "0"))
		remedy(c, "as root: sysctl kernel.unprivileged_userns_clone=1");
	else if (!strcmp(word_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", word), "1"))
		remedy(c, "as root: give the programs an AppArmor profile with the rule userns, or set the sysctl "
			"kernel.apparmor_restrict_unprivileged_userns=0");
	else
		remedy(c, "in a container or chroot: allow the system calls clone and unshare with CLONE_NEWUSER, or run outside");
}

static int namespaces_enter(void)
{
	return unshare(CLONE_NEWNS | CLONE_NEWNET) < 0 || unshare(CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID) < 0 ? errno : 0;
}

/* The namespaces that root's programs make without a user namespace. Finds nothing for other users. */
static void namespaces_probe(struct host_check *c)
{
	int error;

	if (geteuid())
		return;
	error = child_try(namespaces_enter);
	if (!error) {
		found(c, HOST_OK, "root may create them");
		return;
	}
	found(c, HOST_MISSING, "this root may not create them: %s", strerror(error));
	remedy(c, "give the container CAP_SYS_ADMIN (docker run --cap-add SYS_ADMIN)%s", user_namespace_try() ? ""
		: ", or run Cairn as another user, whose VMs need user namespaces only");
}

/* ---- control groups ---- */

/* May this user make groups below this one, and give them controllers and processes? */
static bool cgroup_is_delegated(const char *group)
{
	static const char *const files[] = { "", "/cgroup.procs", "/cgroup.subtree_control" };
	char path[512];

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s%s", group, files[i]);
		if (access(path, W_OK) < 0)
			return false;
	}
	return true;
}

static void cgroups_probe(struct host_check *c)
{
	char mount[192], group[448], has[32], lacks[32];
	bool there[CGROUP_CONTROLLERS];

	if (!cgroup_mount(mount, sizeof(mount))) {
		found(c, HOST_MISSING, "version 2 is not mounted");
		remedy(c, "boot with systemd.unified_cgroup_hierarchy=1 or, without systemd, mount -t cgroup2 none /sys/fs/cgroup");
		return;
	}
	cgroup_folder(mount, 0, group, sizeof(group));
	cgroup_controllers_read(group, "cgroup.controllers", there);
	cgroup_controllers_list(there, true, has, sizeof(has));
	cgroup_controllers_list(there, false, lacks, sizeof(lacks));
	if (lacks[0]) {
		found(c, HOST_MISSING, "version 2, without %s%s%s", lacks, has[0] ? ", with " : "", has);
		remedy(c, "add Delegate=cpu memory pids to the unit (for a user's session: to user@.service); on a host with version 1, boot "
			"with systemd.unified_cgroup_hierarchy=1");
	} else if (!cgroup_is_delegated(group)) {
		found(c, HOST_MISSING, "version 2, with %s, not delegated to this user", has);
		remedy(c, "run the program in a unit with Delegate=cpu memory pids (systemd-run --user --scope -p Delegate=yes COMMAND)");
	} else {
		found(c, HOST_OK, "version 2, with %s, delegated to this user", has);
	}
}

/* ---- modules ---- */

/* Is the module loaded or part of the kernel? A part without parameters has no folder in /sys/module. */
static bool module_is_there(const char *name)
{
	static const char *const folders[] = { "/sys/module", "/sys/class/misc" };
	char path[64];

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		snprintf(path, sizeof(path), "%s/%s", folders[i], name);
		if (!access(path, F_OK))
			return true;
	}
	return false;
}

/* Get the module that KVM needs in addition to `kvm` on this host. */
static const char *kvm_vendor_module(void)
{
	const char *kind = kvm_host_extension();

	if (kind)
		return !strcmp(kind, "vmx") ? "kvm_intel" : "kvm_amd";
	return module_is_there("kvm_pvm") ? "kvm_pvm" : NULL;
}

static void modules_probe(struct host_check *c)
{
	const char *vendor = kvm_vendor_module();
	const char *const names[] = { "kvm", vendor ? vendor : "kvm_intel or kvm_amd", "tun" };
	char there[64] = "", absent[64] = "";

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *list = module_is_there(names[i]) ? there : absent;
		size_t n = strlen(list);

		snprintf(list + n, 64 - n, "%s%s", n ? ", " : "", names[i]);
	}
	if (!absent[0]) {
		found(c, HOST_OK, "%s", there);
		return;
	}
	found(c, HOST_MISSING, "%s%snot loaded: %s", there, there[0] ? "; " : "", absent);
	if (!vendor)
		remedy(c, "see the check nested-paging");
	else if (!access("/proc/modules", F_OK))
		remedy(c, "as root: modprobe each of them; a file in /etc/modules-load.d loads them at boot");
	else
		remedy(c, "this kernel loads no modules: use one that has them");
}

size_t host_checks_run(struct host_check ret[HOST_CHECKS_MAX])
{
	static const struct {
		const char *name, *purpose;
		bool required;
		void (*probe)(struct host_check *c);
	} probes[] = {
		{ "kvm", "run VMs", true, kvm_probe },
		{ "io-uring", "disk and network I/O", true, io_uring_probe },
		{ "seccomp", "confine VM processes", true, seccomp_probe },
		{ "nested-paging", "run guests at full speed", false, paging_probe },
		{ "nested-guests", "guests that run VMs themselves", false, nested_guests_probe },
		{ "cpuid", "processor models (\"cpu\")", false, cpuid_probe },
		{ "userfaultfd", "snapshots, reverts and live clones without long pauses", false, uffd_probe },
		{ "landlock", "confine VM processes, and the programs for archives and user networks", false, landlock_probe },
		{ "user-namespaces", "namespaces around the VMs of users other than root", false, user_namespaces_probe },
		{ "namespaces", "namespaces around the VMs of root", false, namespaces_probe },
		{ "cgroups", "limit a VM's memory, threads and processor time", false, cgroups_probe },
		{ "memory-pressure", "VMs with \"reclaim_on_pressure\": true", false, memory_pressure_probe },
		{ "modules", "KVM and taps", false, modules_probe },
		{ "tun", "interfaces of type bridge and network", false, tun_probe },
		{ "networks", "networks of guests (cairn net-start)", false, networks_probe },
		{ "macvtap", "networks of guests on a link of the host (\"dev\" with mode bridge, private, vepa or passthrough)", false,
			macvtap_probe },
		{ "forwarding", "guests of networks reach other hosts", false, forwarding_probe },
		{ "vhost-net", "interfaces with \"vhost\": true", false, vhost_probe },
		{ "bios", "VMs that boot from a disk (\"firmware\": \"bios\")", false, bios_probe },
		{ "uefi", "VMs with UEFI (\"firmware\": \"uefi\")", false, uefi_probe },
		{ "network-boot", "VMs that boot from the network (boot_order of an interface)", false, network_boot_probe },
		{ "huge-pages", "VMs with \"hugepages\": true", false, huge_pages_probe },
		{ "transparent-huge-pages", "guests that use much memory run faster", false, transparent_huge_pages_probe },
	};
	size_t n = 0;

	_Static_assert(ARRAY_SIZE(probes) <= HOST_CHECKS_MAX, "the caller's array holds all checks");
	for (size_t i = 0; i < ARRAY_SIZE(probes); i++) {
		ret[n] = (struct host_check){ .name = probes[i].name, .purpose = probes[i].purpose,
			.required = probes[i].required };
		probes[i].probe(&ret[n]);
		n += ret[n].found[0] != 0; /* else no check for this user */
	}
	return n;
}
