use crate::device::*; use crate::Result; use std::path::*; use std::io::*;
pub struct FileDevice; pub struct FileOptions { pub direct: bool, pub lock: bool, pub create: Option<u64> }
impl FileOptions { pub fn new(_p: &Path) -> Self { todo!() } }
impl FileDevice { pub fn open(_o: &FileOptions) -> Result<Self> { todo!() } pub fn allocate(&self, _b: u64) -> Result<()> {todo!()} pub fn is_direct(&self) -> bool { todo!() } }
impl Device for FileDevice { fn name(&self)->String{todo!()} fn len_bytes(&self)->u64{0} fn read(&self,_o:u64,_b:&mut [IoSliceMut<'_>])->Result<()>{todo!()} fn write(&self,_o:u64,_b:&[IoSlice<'_>])->Result<()>{todo!()} fn sync(&self)->Result<()>{todo!()} fn discard(&self,_o:u64,_b:u64)->Result<()>{todo!()} }
