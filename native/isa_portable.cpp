// The kernels for any processor: vectors as the compiler translates them for its default instruction set.
#define NATIVE_ISA portable
#define WIDTH 4
#include "table.h"
