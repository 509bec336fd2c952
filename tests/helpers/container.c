/* container: runs a command as in a container with Docker's defaults: container FOLDER COMMAND...
 *
 * The command sees a read-only root, a /dev/shm of 64 MiB, and FOLDER at /mnt, writable. It belongs to user 65534 and
 * the group of /dev/kvm, without capabilities, and its system calls are filtered as by Docker's default profile
 * (moby's profiles/seccomp/default.json): the list below has all calls that this profile refuses on x86-64, except
 * those that Linux no longer has. The profile also refuses some arguments of personality(). Needs root. */
#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOBODY 65534

static const int refused[] = {
	SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register), SCMP_SYS(userfaultfd),
	SCMP_SYS(bpf), SCMP_SYS(perf_event_open), SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(mount),
	SCMP_SYS(umount2), SCMP_SYS(pivot_root), SCMP_SYS(move_mount), SCMP_SYS(open_tree), SCMP_SYS(fsopen),
	SCMP_SYS(fsmount), SCMP_SYS(fsconfig), SCMP_SYS(fspick), SCMP_SYS(mount_setattr),
	SCMP_SYS(open_by_handle_at), SCMP_SYS(fanotify_init), SCMP_SYS(quotactl), SCMP_SYS(quotactl_fd),
	SCMP_SYS(swapon), SCMP_SYS(swapoff), SCMP_SYS(add_key), SCMP_SYS(keyctl), SCMP_SYS(request_key),
	SCMP_SYS(mbind), SCMP_SYS(get_mempolicy), SCMP_SYS(set_mempolicy), SCMP_SYS(set_mempolicy_home_node),
	SCMP_SYS(lookup_dcookie), SCMP_SYS(migrate_pages), SCMP_SYS(move_pages), SCMP_SYS(kcmp),
	SCMP_SYS(pidfd_getfd), SCMP_SYS(process_madvise), SCMP_SYS(clock_settime), SCMP_SYS(settimeofday),
	SCMP_SYS(sethostname), SCMP_SYS(setdomainname), SCMP_SYS(init_module), SCMP_SYS(finit_module),
	SCMP_SYS(delete_module), SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load), SCMP_SYS(reboot),
	SCMP_SYS(acct), SCMP_SYS(iopl), SCMP_SYS(ioperm), SCMP_SYS(vhangup), SCMP_SYS(syslog),
	SCMP_SYS(sysfs), SCMP_SYS(uselib), SCMP_SYS(ustat),
};

#define NAMESPACES                                                                                 \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "container: %s: %s\n", what, strerror(errno));
	exit(125);
}

static void check(int r, const char *what)
{
	if (r < 0)
		fail(what);
}

static void mounts_set(const char *folder)
{
	check(unshare(CLONE_NEWNS), "unshare");
	check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "/");
	check(mount("/", "/mnt", NULL, MS_BIND | MS_REC, NULL), "/mnt");
	check(mount(NULL, "/mnt", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), "a read-only root");
	check(mount(folder, "/mnt/mnt", NULL, MS_BIND, NULL), folder);
	check(mount("shm", "/mnt/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64m,mode=1777"), "/dev/shm");
	check(chroot("/mnt"), "chroot");
	check(chdir("/mnt"), "/mnt");
}

/* Without no_new_privs, as Docker does it. */
static void calls_filter(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int r = ctx ? seccomp_attr_set(ctx, SCMP_FLTATR_CTL_NNP, 0) : -ENOMEM;

	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused) && !r; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
	for (int bit = 0; bit < 32 && !r; bit++)
		if (NAMESPACES & 1 << bit)
			r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
				SCMP_A0(SCMP_CMP_MASKED_EQ, 1u << bit, 1u << bit));
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_VSOCK, 0));
	if (!r)
		r = seccomp_load(ctx);
	errno = -r;
	check(r, "seccomp");
	seccomp_release(ctx);
}

static void user_become(void)
{
	struct stat st;
	gid_t kvm = stat("/dev/kvm", &st) < 0 ? NOBODY : st.st_gid;

	check(setgroups(1, &kvm), "setgroups");
	check(setresgid(NOBODY, NOBODY, NOBODY), "setresgid");
	check(setresuid(NOBODY, NOBODY, NOBODY), "setresuid");
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fputs("usage: container FOLDER COMMAND...\n", stderr);
		return 125;
	}
	mounts_set(argv[1]);
	calls_filter();
	user_become();
	check(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl"); /* a test that ends takes the command with it */
	execv(argv[2], argv + 2);
	fail(argv[2]);
}
