/* Commands for a bochs-display. */
#include "bare.h"

#define VBE 0x500

enum { ID, XRES, YRES, BPP, ENABLE, BANK, VIRT_WIDTH, VIRT_HEIGHT, X_OFFSET, Y_OFFSET, MEMORY_64K };

static struct {
	int bdf;
	bool is_open;
	uint64_t memory, registers;
	unsigned bytes; /* a pixel */
	uint64_t stride;
} dev;

static void vbe_write(unsigned i, uint64_t v)
{
	mmio_write(dev.registers + VBE + 2 * i, 2, v);
}

static uint64_t vbe_read(unsigned i)
{
	return mmio_read(dev.registers + VBE + 2 * i, 2);
}

static const char *screen_open(void)
{
	dev.bdf = pci_find(0x1234, 0x1111, 0);
	if (dev.bdf < 0)
		return "no screen";
	pci_write((uint16_t)dev.bdf, 4, 2, 0x0002);
	dev.memory = pci_bar((uint16_t)dev.bdf, 0);
	dev.registers = pci_bar((uint16_t)dev.bdf, 2);
	dev.is_open = dev.memory && dev.registers && (vbe_read(ID) & 0xfff0) == 0xb0c0;
	return dev.is_open ? NULL : "the screen has no registers";
}

/* mode WIDTH HEIGHT BITS [VIRT_WIDTH X_OFFSET Y_OFFSET] */
static const char *screen_mode(const struct args *a)
{
	vbe_write(ENABLE, 0);
	vbe_write(BPP, a->v[3]);
	vbe_write(XRES, a->v[1]);
	vbe_write(YRES, a->v[2]);
	vbe_write(VIRT_WIDTH, a->v[4] ? a->v[4] : a->v[1]);
	vbe_write(VIRT_HEIGHT, a->v[2]);
	vbe_write(X_OFFSET, a->v[5]);
	vbe_write(Y_OFFSET, a->v[6]);
	vbe_write(ENABLE, 0x41);
	dev.bytes = (unsigned)a->v[3] / 8;
	dev.stride = vbe_read(VIRT_WIDTH) * dev.bytes;
	return NULL;
}

/* rect X Y WIDTH HEIGHT VALUE, with the offset 0. By movs of whole pixels. */
static const char *screen_rect(const struct args *a)
{
	for (uint64_t y = a->v[2]; y < a->v[2] + a->v[4]; y++) {
		volatile uint8_t *line = (volatile uint8_t *)(dev.memory + y * dev.stride + a->v[1] * dev.bytes);

		for (uint64_t x = 0; x < a->v[3]; x++) {
			if (dev.bytes == 4)
				((volatile uint32_t *)line)[x] = (uint32_t)a->v[5];
			else
				((volatile uint16_t *)line)[x] = (uint16_t)a->v[5];
		}
	}
	return NULL;
}

/* move GPA: put the framebuffer there, as a firmware would. */
static const char *screen_move(const struct args *a)
{
	pci_write((uint16_t)dev.bdf, 0x10, 4, (uint32_t)a->v[1]);
	dev.memory = a->v[1];
	return NULL;
}

static const char *screen_show(void)
{
	print("memory=%x registers=%x size=%u enable=%u\n", dev.memory, dev.registers, vbe_read(MEMORY_64K) << 16, vbe_read(ENABLE));
	return NULL;
}

static const char *cmd_screen(const struct args *a)
{
	if (str_equal(a->s[0], "open"))
		return screen_open();
	if (!dev.is_open)
		return "open the screen first";
	if (str_equal(a->s[0], "mode"))
		return screen_mode(a);
	if (str_equal(a->s[0], "rect"))
		return screen_rect(a);
	if (str_equal(a->s[0], "move"))
		return screen_move(a);
	return str_equal(a->s[0], "show") ? screen_show() : "no such command";
}

const struct command screen_commands[] = {
	{"screen", 1, 1, "open|mode WIDTH HEIGHT BITS [VIRT-WIDTH X Y]|rect X Y WIDTH HEIGHT VALUE|move GPA|show", cmd_screen},
	{0},
};
