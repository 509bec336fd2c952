#include "vmm/machine/machine_firmware.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/block.h"
#include "devices/acpi_pm.h"
#include "devices/legacy/pflash.h"
#include "devices/virtio/virtio_scsi.h"
#include "vmm/boot/bios.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/machine_vcpus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SIGNATURE_AT (BLOCK_SECTOR_BYTES - 2)
/* The MBR of a disk with partitions. */
#define MBR_CODE_BYTES 440
#define MBR_TYPE_AT 450 /* of the first of four partitions, with 16 bytes each */
#define MBR_TYPE_GPT 0xee
#define MBR_TYPE_EFI 0xef
/* The boot record of an ISO 9660 file system that boots (El Torito). */
#define BOOT_RECORD_AT (17 * 2048)
#define BOOT_RECORD "\0CD001\1EL TORITO SPECIFICATION"
#define QCOW2_MAGIC "QFI\xfb"

/* Add the devices with this place in the boot order. */
static void order_add(const struct machine *m, unsigned place, struct bios_config *c)
{
	for (unsigned i = 0; i < m->ndisks && c->norder < BIOS_ORDER_MAX; i++) {
		const struct machine_disk *d = &m->disks[i];
		unsigned at = d->scsi ? BIOS_ORDER_SCSI(virtio_scsi_slot(d->dev), d->target) : machine_slot(m, d->dev);

		if (m->cfg.boot_place[i] == place)
			c->order[c->norder++] = at;
	}
	if (!place || m->cfg.network_place != place)
		return;
	for (unsigned i = 0; c->uefi && i < m->nnics && c->norder < BIOS_ORDER_MAX; i++)
		c->order[c->norder++] = BIOS_ORDER_INTERFACE(machine_slot(m, m->nics[i].dev));
	if (!c->uefi && c->norder < BIOS_ORDER_MAX)
		c->order[c->norder++] = BIOS_ORDER_NETWORK;
}

int machine_read_rom(int fd, size_t max, const char *what, const char *package, uint8_t **ret, size_t *ret_bytes, struct err *e)
{
	struct stat st;
	int r;

	if (fd < 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", what);
	if (st.st_size < 512 || st.st_size > (off_t)max)
		return err_set(e, -EINVAL, ERR_INVALID, "%s has %lld bytes, but not 512 to %zu; install the package %s again", what,
			(long long)st.st_size, max, package);
	*ret = malloc((size_t)st.st_size);
	*ret_bytes = (size_t)st.st_size;
	r = *ret ? pread_full(fd, *ret, *ret_bytes, 0) : -ENOMEM;
	return r < 0 ? err_set_errno(e, r, "%s", what) : 0;
}

/* hardware: the machine version that the firmware is notified of. */
static void bios_config_fill(const struct machine *m, uint32_t hardware, struct bios_config *c)
{
	*c = (struct bios_config){ .mem = &m->mem,
		.uefi = m->cfg.firmware == VM_FIRMWARE_UEFI, .keyboard = m->cfg.screen, .vcpus = m->cfg.vcpus,
		.cpu_hotplug = m->cpu_hotplug, .vcpus_absent = machine_vcpus_absent(m), .menu = m->cfg.boot_menu,
		.menu_ms = m->cfg.boot_menu_ms, .sysinfo = m->cfg.sysinfo, .slots = machine_eject_slots(m, hardware) };
	memcpy(c->uuid, m->cfg.uuid, sizeof(c->uuid));
	for (unsigned place = 1; place <= VM_BOOT_PLACES_MAX; place++)
		order_add(m, place, c);
	/* Without an order, a UEFI takes its own boot entries. With one, OVMF deletes those of other devices. */
	if (!c->uefi || c->norder)
		order_add(m, 0, c);
}

int machine_describe_firmware(struct machine *m, struct err *e)
{
	struct bios_config c;
	CLEANUP_FREE uint8_t *rom = NULL;
	size_t bytes = 0;
	int r = machine_read_rom(m->network_rom_fd, BIOS_NETWORK_ROM_MAX, "the ROM for network boot", "ipxe-qemu", &rom, &bytes, e);

	if (r < 0)
		return r;
	bios_config_fill(m, machine_hardware_to_boot(m), &c);
	c.network_rom = rom;
	c.network_rom_bytes = bytes;
	return bios_describe(m->fw_cfg, &c, e);
}

int machine_update_firmware(struct machine *m, struct err *e)
{
	struct bios_config c;

	if (!m->cfg.firmware)
		return 0;
	bios_config_fill(m, m->hardware, &c);
	return bios_describe_again(m->fw_cfg, &c, e);
}

/* The signature of a firmware volume (UEFI PI 1.7, volume 3, section 3.2.1). Other programs in flash memory may run
 * there. */
#define VOLUME_SIGNATURE_AT 40

/* Refuse a UEFI on a host whose KVM emulates kernel mode. */
static int uefi_check(const struct machine *m, struct err *e)
{
	if (m->kvm.host_kind != VM_HOST_PVM || memcmp(m->mem.rom + VOLUME_SIGNATURE_AT, "_FVH", 4))
		return 0;
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "boot.firmware: UEFI does not run on this host, whose KVM emulates kernel mode "
		"(kvm-pvm) and lacks floating-point instructions that UEFI begins with; boot with firmware \"bios\" or a kernel, or use a "
		"host with VMX or SVM");
}

int machine_load_firmware(struct machine *m, struct err *e)
{
	int r;

	if (m->cfg.firmware != VM_FIRMWARE_UEFI)
		return memory_read_rom(&m->mem, m->kernel_fd, e);
	memory_lay_out_for_uefi(&m->mem);
	r = flash_file_open(&m->nvram, m->nvram_fd, m->nvram_template_fd, &m->nvram_content, e);
	if (!r)
		r = memory_map_uefi(&m->mem, m->kernel_fd, m->nvram.bytes, e);
	return r ? r : uefi_check(m, e);
}

int machine_flash_new(struct machine *m, struct device **ret_dev, struct err *e)
{
	struct pflash_config c = { .gpa = memory_flash_gpa(&m->mem), .view = m->mem.flash, .view_fd = m->mem.flash_fd,
		.file = m->nvram, .content = m->nvram_content };
	int r = pflash_new(&m->host, m->mmio, &c, ret_dev, e);

	free(m->nvram_content);
	m->nvram_content = NULL;
	acpi_pm_accept_type_0(m->acpi_pm);
	m->kvm.flash_fd = m->nvram_fd;
	return r;
}

/* Read the sector of an offset. Returns the byte there, in the buffer; NULL: there is none, or with *ret_unknown it
 * could not be read. */
static const uint8_t *disk_read(struct block *b, uint64_t offset, uint8_t sector[4096], bool *ret_unknown)
{
	struct iovec iov = { sector, 4096 };
	struct block_req r = { .op = BLOCK_READ, .iov = &iov, .niov = 1 };
	struct block_info info;
	uint64_t begin;

	block_info(b, &info);
	iov.iov_len = MAX(info.logical_block_bytes, BLOCK_SECTOR_BYTES);
	begin = offset & ~(iov.iov_len - 1);
	r.offset = begin;
	r.len = iov.iov_len;
	if (info.size_bytes < r.offset + r.len)
		return NULL;
	if (block_run(b, &r) < 0) {
		*ret_unknown = true;
		return NULL;
	}
	return sector + (offset - begin);
}

/* Whether these bytes are at the offset. */
static bool disk_has(struct block *b, uint64_t offset, const char *want, size_t n, bool *ret_unknown)
{
	uint8_t sector[4096] __attribute__((aligned(4096)));
	const uint8_t *at = disk_read(b, offset, sector, ret_unknown);

	return at && !memcmp(at, want, n);
}

/* Whether the first sector has a signature but no code, and a partition of EFI or a GPT. */
static bool disk_is_for_uefi(struct block *b, bool *ret_unknown)
{
	uint8_t sector[4096] __attribute__((aligned(4096)));
	const uint8_t *mbr = disk_read(b, 0, sector, ret_unknown);
	bool efi = false;

	if (!mbr || memcmp(mbr + SIGNATURE_AT, "\x55\xaa", 2))
		return false;
	for (unsigned i = 0; i < MBR_CODE_BYTES; i++)
		if (mbr[i])
			return false;
	for (unsigned i = 0; i < 4; i++) {
		uint8_t type = mbr[MBR_TYPE_AT + 16 * i];

		efi |= type == MBR_TYPE_GPT || type == MBR_TYPE_EFI;
	}
	return efi;
}

enum boots { BOOTS_NOT, BOOTS, BOOTS_AS_CD, BOOTS_QCOW2, BOOTS_BY_UEFI };

/* Find out whether the firmware can boot the disk. BOOTS_AS_CD: it has only the boot record of a CD, and is no CD drive
 * of the SCSI controller; BOOTS_QCOW2: it is a qcow2 image that the guest sees as raw; BOOTS_BY_UEFI: a BIOS finds no
 * code in its boot sector. */
static enum boots disk_boots(struct block *b, bool cdrom)
{
	bool unknown = false, record, sector, qcow2;

	if (!cdrom && disk_is_for_uefi(b, &unknown))
		return BOOTS_BY_UEFI;
	sector = !cdrom && disk_has(b, SIGNATURE_AT, "\x55\xaa", 2, &unknown);
	record = disk_has(b, BOOT_RECORD_AT, BOOT_RECORD, sizeof(BOOT_RECORD) - 1, &unknown);
	qcow2 = disk_has(b, 0, QCOW2_MAGIC, sizeof(QCOW2_MAGIC) - 1, &unknown);
	if (sector || (cdrom && record) || unknown)
		return BOOTS;
	return record ? BOOTS_AS_CD : qcow2 ? BOOTS_QCOW2 : BOOTS_NOT;
}

int machine_check_bootable(struct machine *m, struct err *e)
{
	const char *as_cd = NULL, *qcow2 = NULL, *by_uefi = NULL;
	char names[160] = "";
	size_t n = 0;

	if (m->cfg.firmware != VM_FIRMWARE_BIOS || m->cfg.network_place)
		return 0;
	for (unsigned i = 0; i < m->ndisks; i++) {
		switch (disk_boots(m->disks[i].block, m->cfg.disk_more[i].cdrom && m->disks[i].scsi)) {
		case BOOTS:
			return 0;
		case BOOTS_AS_CD:
			as_cd = m->disks[i].id;
			break;
		case BOOTS_QCOW2:
			qcow2 = m->disks[i].id;
			break;
		case BOOTS_BY_UEFI:
			by_uefi = by_uefi ? by_uefi : m->disks[i].id;
			break;
		default:
			break;
		}
		if (n < sizeof(names))
			n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", i ? ", " : "", m->disks[i].id);
	}
	if (by_uefi)
		return err_set(e, -ENXIO, ERR_INVALID, "no disk has a boot sector with code (%s); %s boots by UEFI: give the VM \"firmware\": \"uefi\" in "
			"\"boot\" (cairn edit)", names, by_uefi);
	if (as_cd)
		return err_set(e, -ENXIO, ERR_INVALID, "no disk has a boot sector (%s); %s has the boot record of a CD: give it "
			"\"device\": \"cdrom\" and \"bus\": \"scsi\", then the firmware boots it", names, as_cd);
	if (qcow2)
		return err_set(e, -ENXIO, ERR_INVALID, "no disk has a boot sector (%s); %s is a qcow2 image: give it \"format\": "
			"\"qcow2\"", names, qcow2);
	return err_set(e, -ENXIO, ERR_INVALID, "%s%s%s%s: write a system's image to a disk, boot from the network (boot_order of an "
		"interface, start --boot network), or give boot.kernel", m->ndisks ? "no disk has a boot sector" : "the VM has no disk",
		n ? " (" : "", names, n ? ")" : "");
}
