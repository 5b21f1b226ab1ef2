//! Tensors on every device: what goes in comes out, host access where there is host memory, sizes that cannot be.

mod common;

use common::{all_devices, assert_breaks};
use trimoe::ops::{Copy, Routing};
use trimoe::{Device, Error, Place, Plain, bf16, f16};

fn round_trip<T: Plain + PartialEq + std::fmt::Debug>(device: &Device, values: Vec<T>) {
    let mut tensor = device.zeros::<T, 2>([values.len() / 2, 2]).unwrap();
    assert_eq!((tensor.place(), tensor.view().place()), (device.place(), device.place()));
    assert_eq!(tensor.to_vec().unwrap(), vec![T::zeroed(); values.len()]);
    tensor.copy_from(&values).unwrap();
    assert_eq!(tensor.to_vec().unwrap(), values);
    assert_eq!((tensor.len(), tensor.bytes()), (values.len(), size_of_val(&values[..]) as u64));
    if device.place() == Place::Host {
        assert_eq!(tensor.host().unwrap(), values);
        assert_eq!(tensor.host_mut().unwrap(), values);
    } else {
        assert_breaks(tensor.host().map(drop), "in host memory");
        assert_breaks(tensor.host_mut().map(drop), "in host memory");
    }
    assert_breaks(tensor.copy_from(&values[1..]), "values.len() == self.len()");
}

#[test]
fn what_goes_in_comes_out() {
    for device in all_devices() {
        let floats = [1.5, -0.0, 2.0, f32::INFINITY, 1e-30, -7.0];
        round_trip(&device, floats.to_vec());
        round_trip(&device, floats.map(f64::from).to_vec());
        round_trip(&device, floats.map(bf16::from_f32).to_vec());
        round_trip(&device, floats.map(f16::from_f32).to_vec());
        round_trip(&device, vec![0, u32::MAX]);
        round_trip::<u8>(&device, vec![3; 10]);
        for shape in [[0, 3], [3, 0]] {
            let mut empty = device.zeros::<f32, 2>(shape).unwrap();
            empty.copy_from(&[]).unwrap();
            assert_eq!((empty.is_empty(), empty.to_vec().unwrap()), (true, vec![]));
        }
    }
}

#[test]
fn operations_run_on_them() {
    for device in all_devices() {
        let (mut x, mut y) = (device.zeros([3, 4]).unwrap(), device.zeros([3, 4]).unwrap());
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        x.copy_from(&values).unwrap();
        device.run(Copy { x: x.view(), y: y.view_mut() }).unwrap();
        assert_eq!(y.to_vec().unwrap(), values);
        device.run(Copy { x: y.view(), y: x.view_mut() }).unwrap();
    }
}

#[test]
fn batches_of_any_size_fit() {
    for device in all_devices() {
        let mut routing = Routing::new(&device, 4, 2, 8, 2).unwrap();
        for tokens in [0, 4, 9, 1] {
            routing.resize(tokens).unwrap();
            assert_eq!(routing.expert.shape(), [tokens, 2]);
            assert_eq!(routing.expert.place(), device.place());
            let ids = vec![7; 2 * tokens];
            routing.expert.copy_from(&ids).unwrap();
            assert_eq!(routing.expert.to_vec().unwrap(), ids);
        }
        assert_breaks(routing.resize(usize::MAX), "isize::MAX");
    }
}

#[test]
fn sizes_that_cannot_be_are_errors() {
    for device in all_devices() {
        for shape in [[usize::MAX, 2], [isize::MAX as usize / 4 + 1, 1]] {
            assert_breaks(device.zeros::<f32, 2>(shape).map(drop), "isize::MAX");
        }
        let huge = device.zeros::<u8, 1>([isize::MAX as usize]);
        assert!(matches!(huge, Err(Error::Host { .. } | Error::Cuda { .. })), "{huge:?}");
    }
}

/// Which drivers refuse to hold: nothing is uploaded, seen and downloaded as anything else is.
#[cfg(feature = "cuda")]
#[test]
fn nothing_is_a_slice_too() {
    for device in all_devices() {
        let Some(cuda) = device.as_cuda() else { continue };
        let mut empty = cuda.upload::<f32>(&[]).unwrap();
        assert_eq!(empty.len(), 0);
        assert!(cuda.view(&empty, 0, [0, 3], [3, 1]).is_ok());
        assert_breaks(cuda.view(&empty, 0, [1, 1], [1, 1]).map(drop), "extent(shape, strides) <= len");
        let y = cuda.view_mut(&mut empty, 0, [0, 3], [3, 1]).unwrap();
        let x = cuda.upload(&[1.0f32; 3]).unwrap();
        device.run(Copy { x: cuda.view(&x, 0, [0, 3], [3, 1]).unwrap(), y }).unwrap();
        assert!(cuda.download(&empty).unwrap().is_empty());
    }
}
