// The kernels for any processor: what the compiler makes of the vectors without being told of an instruction set.
#define NATIVE_ISA portable
#define WIDTH 4
#include "table.h"
