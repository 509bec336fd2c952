/* A guest that does nothing: halts, echoes what comes on the serial port, and turns itself off
 * at the power button or at 'q'. */
#include "bare.h"

void program(uint64_t again)
{
	if (!again) {
		serial_init();
		button_init();
		print("idle\n");
	}
	for (;;) {
		while (serial_ready()) {
			char c = (char)serial_read();

			if (c == 'q')
				power_off();
			print("%c", c);
		}
		if (button_pressed())
			power_off();
		halt();
	}
}
