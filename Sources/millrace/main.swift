// The executable: everything is in Assembly, whose code runs on no actor.

import Assembly

Millrace.main()
